/** The verbs that are jbazel's own; everything else is Bazel's. */
export const VERBS = ["setup", "login", "status", "doctor", "completion"] as const;
export type Verb = typeof VERBS[number];

/** What a command line asks for. */
export type Invocation =
  | { kind: "help" }
  | { kind: "version" }
  | { kind: "verb"; verb: Verb; args: string[] }
  | { kind: "bazel"; args: string[] };

/**
 * Tells jbazel's own command lines from Bazel's, which are never looked into any further: only the first word decides,
 * so that startup options, commands of coming Bazel versions and everything after `--` pass untouched.
 */
export function parseInvocation(args: string[]): Invocation {
  const [first, ...rest] = args;
  if (first === undefined || first === "-h" || first === "--help") return { kind: "help" };
  if (first === "--version") return { kind: "version" };
  const verb = VERBS.find((v) => v === first);
  return verb ? { kind: "verb", verb, args: rest } : { kind: "bazel", args };
}

/** Commands of which the Bazel client never reads its standard input. */
const DEAF_COMMANDS = new Set(
  ("analyze-profile aquery build canonicalize-flags clean config coverage cquery dump fetch help info license " +
    "mobile-install mod print_action query shutdown sync test vendor version").split(" "),
);

/**
 * Whether a Bazel command line may read its standard input: `run` does, for the program that it starts. For the others
 * it stays unread, as with the stock client: it is the rest of a shell loop's list, or what the user types for the next
 * prompt. A command that is not known counts as reading.
 */
export function readsStdin(args: string[]): boolean {
  const command = args.find((a) => !a.startsWith("-"));
  return command !== undefined && !DEAF_COMMANDS.has(command);
}
