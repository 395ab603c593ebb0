/**
 * What a Bazel server inherits from the shell in which its client was called: limits, umask and locale. It travels among
 * the server's startup options, as properties that no JVM knows; the agent takes them out again.
 */

/** Begins each of those options. */
const PREFIX = "-Drbs.client-shell.";

/** `ulimit`'s letters: size of core files, of the stack, number of open files. */
const LIMITS = ["c", "s", "n"] as const;

/** A limit in the unit of `ulimit`, or "unlimited". */
export interface Limit {
  readonly letter: typeof LIMITS[number];
  readonly soft: string;
  readonly hard: string;
}

/** See the file's head. */
export interface ClientShell {
  readonly limits: readonly Limit[];
  /** Octal, as `umask` prints it. */
  readonly umask?: string;
  /** LANG, LANGUAGE and LC_…, as far as they are set; undefined: nothing is known of them. */
  readonly locale?: Readonly<Record<string, string>>;
}

/** The variables that make a locale. */
const LOCALE = /^(LANG|LANGUAGE|LC_[A-Z]+)$/;
const LIMIT = /^(unlimited|\d{1,18})$/;

/**
 * The options that say it.
 *
 * @param limits What a launcher has found: soft and hard limits for c, s and n, then the umask, with spaces between them.
 *   Empty: there was no launcher.
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

/** Whether a startup option is one of those: no server gets it, and it is no reason for another one. */
export function isClientShellOption(option: string): boolean {
  return option.startsWith(PREFIX);
}

/** What the options say. What is not of their form is left out: they come from anybody. */
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
