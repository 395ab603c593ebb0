/** The orchestrator as a process of its own, in a session of its own, where there is no systemd. */
import { join } from "node:path";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import type { Run, Service, ServiceManager } from "./service.ts";

/** How long its end may take: its agents end with it. Seconds. */
const STOP_SECONDS = 60;

/** Starts the program with its arguments; $1: its folder, $2: the log. Prints the process's number. */
const START = `cd -- "$1" && log=$2 && shift 2 || exit
setsid "$@" </dev/null >>"$log" 2>&1 &
echo $!`;

/** Whether process $1 is the program $2: numbers are used again. */
const IS_IT = `case $(ps -o args= -p "$1") in *"$2"*) ;; *) exit 1 ;; esac`;

/** Tells process $1 to end, and waits up to $2 seconds. */
const STOP = `kill -TERM "$1" 2>/dev/null || exit 0
tenths=0
while case $(ps -o stat= -p "$1") in "" | Z*) false ;; esac; do
  [ "$tenths" -lt "$(($2 * 10))" ] || exit 1
  tenths=$((tenths + 1))
  sleep 0.1
done`;

/** See the file's head. Its number stands in `orchestrator.pid` of the state directory. */
export class Detached implements ServiceManager {
  readonly name = "a process of its own";
  readonly endurance =
    "It goes on when this terminal is closed, and ends with the machine: after a restart, install it again.";
  readonly #file: string;
  readonly #run: Run;

  /** @param stateDirectory Absolute. */
  constructor(stateDirectory: string, run: Run) {
    this.#file = join(stateDirectory, "orchestrator.pid");
    this.#run = run;
  }

  isInstalled(): Promise<boolean> {
    return Promise.resolve(this.#noted() !== undefined);
  }

  async pid(): Promise<number | undefined> {
    const noted = this.#noted();
    if (!noted) return undefined;
    const { code } = await this.#run("sh", ["-c", IS_IT, "sh", noted.pid, noted.program]);
    return code === 0 ? Number(noted.pid) : undefined;
  }

  async start({ program, args, workingDirectory, log }: Service): Promise<void> {
    // Its environment is this process's own.
    const { code, output } = await this.#run("sh", ["-c", START, "sh", workingDirectory, log, program, ...args]);
    if (code !== 0 || !/^\d+$/.test(output)) {
      throw new RbsError(`${program} cannot be started in the background (${output.split("\n")[0]}).`);
    }
    try {
      Deno.writeTextFileSync(this.#file, `${output}\n${program}\n`, { mode: 0o600 });
    } catch (cause) {
      throw new RbsError(`${this.#file} cannot be written (${sentence(cause)}): process ${output} runs without it.`, {
        cause,
      });
    }
  }

  async stop(): Promise<void> {
    const pid = await this.pid();
    if (pid !== undefined) {
      const { code } = await this.#run("sh", ["-c", STOP, "sh", String(pid), String(STOP_SECONDS)]);
      if (code !== 0) {
        throw new RbsError(`The orchestrator, process ${pid}, has not ended within ${STOP_SECONDS} s: see its log.`);
      }
    }
    try {
      Deno.removeSync(this.#file);
    } catch (e) {
      if (!(e instanceof Deno.errors.NotFound)) throw e;
    }
  }

  #noted(): { pid: string; program: string } | undefined {
    let text: string;
    try {
      text = Deno.readTextFileSync(this.#file);
    } catch {
      return undefined;
    }
    const [, pid, program] = /^(\d+)\n(.+)\n$/s.exec(text) ?? [];
    return pid ? { pid, program } : undefined;
  }
}
