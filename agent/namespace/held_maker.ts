import { ROOTS_UNSHARE, USER_NAMESPACE } from "./confined_root.ts";
import { mountTable } from "../files/processes.ts";

/**
 * A maker of a session's namespace that is started before the session is known, to save time for a warm agent. Its
 * first programs already run, and wait on standard input for the rest of the command:
 *
 *     how many bytes follow, in 10 digits
 *     the words of the command, a NUL behind each
 *
 * Standard input later belongs to the namespace's first process, so not a byte more is read from it. A waiting maker
 * exits when standard input is closed, which happens however the agent dies.
 */
export class HeldMaker implements Disposable {
  /** The start of the command, which already runs. */
  readonly #prefix: readonly string[];
  readonly #process: Deno.ChildProcess;
  /** The mounts when the process started; it may not see later ones. */
  readonly #mounts = mountTable();
  #taken = false;
  #hasEnded = false;
  /** Resolves when the process has ended. */
  readonly ended: Promise<void>;

  private constructor(prefix: readonly string[], args: readonly string[]) {
    this.#prefix = prefix;
    this.#process = new Deno.Command("bash", {
      args: ["-c", `cd / && unset OLDPWD && exec "$@"`, "bash", ...args],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.ended = this.#process.status.then(() => void (this.#hasEnded = true));
  }

  /** For confined sessions of root, see confined_root.ts: all namespaces exist, and Perl waits for its program. */
  static ofRoot(): HeldMaker {
    return new HeldMaker([...ROOTS_UNSHARE, "perl", "-e"], [...ROOTS_UNSHARE, "perl", "-e", PERL]);
  }

  /** For other sessions: bash waits. */
  static ofAnyone(): HeldMaker {
    return new HeldMaker([], ["bash", "-c", BASH, "bash"]);
  }

  /**
   * Makes it execute a command. It can be taken once.
   *
   * @returns its process. Undefined if it cannot execute the command: it has ended, the command starts differently or
   * has a NUL in an argument, or the mounts have changed.
   */
  take(command: readonly string[]): { process: Deno.ChildProcess; stdin: WritableStreamDefaultWriter } | undefined {
    const isLike = this.#prefix.every((word, index) => word === command[index]);
    if (this.#taken || this.#hasEnded || !isLike || command.some((word) => word.includes("\0"))) return undefined;
    if (this.#mounts === undefined || this.#mounts !== mountTable()) return undefined;
    this.#taken = true;
    const words = new TextEncoder().encode(command.slice(this.#prefix.length).map((word) => `${word}\0`).join(""));
    const stdin = this.#process.stdin.getWriter();
    const length = new TextEncoder().encode(String(words.length).padStart(10, "0"));
    // A write fails if the process has ended, which is noticed elsewhere.
    for (const part of [length, words]) stdin.write(part).catch(() => {});
    return { process: this.#process, stdin };
  }

  /** Ends it, unless it was taken. */
  [Symbol.dispose](): void {
    if (this.#taken) return;
    this.#taken = true;
    this.#process.stdin.close().catch(() => {});
    for (const stream of [this.#process.stdout, this.#process.stderr]) stream.cancel().catch(() => {});
  }
}

/** The first word is the Perl program. Its user namespace exists already. */
const PERL = String.raw`
${USER_NAMESPACE}
sub take {
  my ($length, $got) = (@_, "");
  while (length $got < $length) { sysread STDIN, $got, $length - length $got, length $got or exit }
  return $got;
}
my ($program, @rest) = split /\0/, take(take(10)), -1;
pop @rest;
@ARGV = @rest;
eval "$program; 1" or do { print STDERR $@; exit 255 };
`;

/** Reads byte by byte, as bash does from a pipe, so never too many. */
const BASH = String.raw`
words=()
take() {
  local LC_ALL=C length word
  read -r -N 10 length || exit
  for ((length = 10#$length; length > 0; length -= ${"${#word}"} + 1)); do
    IFS= read -r -d '' -n "$length" word || exit
    words+=("$word")
  done
}
take
exec "${"${words[@]}"}"
`;
