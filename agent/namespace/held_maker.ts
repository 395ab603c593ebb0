import { ROOTS_UNSHARE, USER_NAMESPACE } from "./confined_root.ts";
import { mountTable } from "../files/processes.ts";

/**
 * What makes a session's namespace, started before it is known for which session: the programs that come first run
 * already, and wait on their standard input for the rest of the command. A warm agent saves their starts.
 *
 *     how many bytes follow, in 10 digits
 *     the words of the command, a NUL behind each
 *
 * Its standard input is the first process's afterwards: not a byte more is read from it. Who waits ends when that ends,
 * which it does however the agent dies.
 */
export class HeldMaker implements Disposable {
  /** What the command must begin with: that runs already. */
  readonly #prefix: readonly string[];
  readonly #process: Deno.ChildProcess;
  /** What was mounted when the process began: of what was mounted since, it may see nothing. */
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

  /** For sessions of root that are confined, see confined_root.ts: all namespaces are there, and Perl waits for its program. */
  static ofRoot(): HeldMaker {
    return new HeldMaker([...ROOTS_UNSHARE, "perl", "-e"], [...ROOTS_UNSHARE, "perl", "-e", PERL]);
  }

  /** For any others: bash waits. */
  static ofAnyone(): HeldMaker {
    return new HeldMaker([], ["bash", "-c", BASH, "bash"]);
  }

  /**
   * Has it execute a command. It is used up then.
   *
   * @returns its process; undefined if it cannot: it has ended, the command begins in another way or holds what no
   *   argument can, or something was mounted or unmounted meanwhile
   */
  take(command: readonly string[]): { process: Deno.ChildProcess; stdin: WritableStreamDefaultWriter } | undefined {
    const isLike = this.#prefix.every((word, index) => word === command[index]);
    if (this.#taken || this.#hasEnded || !isLike || command.some((word) => word.includes("\0"))) return undefined;
    if (this.#mounts === undefined || this.#mounts !== mountTable()) return undefined;
    this.#taken = true;
    const words = new TextEncoder().encode(command.slice(this.#prefix.length).map((word) => `${word}\0`).join(""));
    const stdin = this.#process.stdin.getWriter();
    const length = new TextEncoder().encode(String(words.length).padStart(10, "0"));
    // Who reads no more has ended, and that is noticed.
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

/** The first word is the program. It finds its user namespace made. */
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

/** Reads byte by byte, as bash does from a pipe, and so not one too many. */
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
