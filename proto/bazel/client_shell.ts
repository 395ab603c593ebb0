/**
 * What a Bazel server inherits from the shell of its client: limits, umask and locale. The values are sent among the
 * server's startup options, as properties that no JVM knows; the agent removes them again.
 */

/** Prefix of these options. */
const PREFIX = "-Drbs.client-shell.";

/** Letters of `ulimit`: size of core files, size of the stack, number of open files. */
const LIMITS = ["c", "s", "n"] as const;

/** A limit in the unit of `ulimit`, or "unlimited". */
export interface Limit {
  readonly letter: typeof LIMITS[number];
  readonly soft: string;
  readonly hard: string;
}

/** What a server inherits from the client's shell. */
export interface ClientShell {
  readonly limits: readonly Limit[];
  /** Octal, as `umask` prints it. */
  readonly umask?: string;
  /** LANG, LANGUAGE and LC_…, as far as they are set; undefined if unknown. */
  readonly locale?: Readonly<Record<string, string>>;
}

/** The variables of a locale. */
const LOCALE = /^(LANG|LANGUAGE|LC_[A-Z]+)$/;
const LIMIT = /^(unlimited|\d{1,18})$/;

/**
 * The options for these values.
 *
 * @param limits From a launcher: soft and hard limits for c, s and n, then the umask, separated by spaces. Empty if
 * there was no launcher.
 */
export function clientShellOptions(limits: string, environment: Readonly<Record<string, string>>): string[] {
  const words = limits.split(" ");
  if (words.length !== 2 * LIMITS.length + 1) return [];
  return [
    ...LIMITS.map((letter, i) => `${PREFIX}limit.${letter}=${words[2 * i]}:${words[2 * i + 1]}`),
    `${PREFIX}umask=${words.at(-1)}`,
    ...Object.entries(environment).filter(([name]) => LOCALE.test(name))
      .map(([name, value]) => `${PREFIX}locale.${name}=${value}`),
  ];
}

/** Whether a startup option is one of these. No server gets them, and a change needs no restart. */
export function isClientShellOption(option: string): boolean {
  return option.startsWith(PREFIX);
}

/** Reads the options. Malformed ones are ignored, since anybody may send them. */
export function readClientShell(options: readonly string[]): ClientShell {
  const limits: Limit[] = [];
  const locale: Record<string, string> = {};
  let umask: string | undefined;
  const told = options.filter(isClientShellOption);
  for (const option of told) {
    const [, name, value] = /^([\w.]+)=(.*)$/s.exec(option.slice(PREFIX.length)) ?? [];
    const letter = LIMITS.find((letter) => name === `limit.${letter}`);
    const [soft, hard] = value?.split(":") ?? [];
    if (letter && LIMIT.test(soft) && LIMIT.test(hard ?? "")) limits.push({ letter, soft, hard });
    else if (name === "umask" && /^[0-7]{3,4}$/.test(value)) umask = value;
    else if (name?.startsWith("locale.") && LOCALE.test(name.slice(7)) && /^[\w.@:-]*$/.test(value)) {
      locale[name.slice(7)] = value;
    }
  }
  return { limits, umask, locale: told.length > 0 ? locale : undefined };
}
