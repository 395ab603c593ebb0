/** jbazel's own verbs; everything else is Bazel's. */
export const VERBS = ["setup", "login", "status", "doctor", "completion"] as const;
export type Verb = typeof VERBS[number];

/** A parsed command line. */
export type Invocation =
  | { kind: "help" }
  | { kind: "version" }
  | { kind: "verb"; verb: Verb; args: string[] }
  | { kind: "bazel"; args: string[] };

/**
 * Separates jbazel's own command lines from Bazel's. Only the first word decides, so that startup options, commands of
 * future Bazel versions and everything after `--` pass unchanged.
 */
export function parseInvocation(args: string[]): Invocation {
  const [first, ...rest] = args;
  if (first === undefined || first === "-h" || first === "--help") return { kind: "help" };
  if (first === "--version") return { kind: "version" };
  const verb = VERBS.find((v) => v === first);
  return verb ? { kind: "verb", verb, args: rest } : { kind: "bazel", args };
}

/** Commands for which the Bazel client never reads standard input. */
const DEAF_COMMANDS = new Set(
  ("analyze-profile aquery build canonicalize-flags clean config coverage cquery dump fetch help info license " +
    "mobile-install mod print_action query shutdown sync test vendor version").split(" "),
);

/**
 * Whether a Bazel command line may read standard input: `run` does, for the program that it starts. For the others it
 * stays unread, as with the stock client: it may be the rest of a shell loop's list, or input for the next prompt.
 * Unknown commands count as reading.
 */
export function readsStdin(args: string[]): boolean {
  const command = args.find((a) => !a.startsWith("-"));
  return command !== undefined && !DEAF_COMMANDS.has(command);
}
