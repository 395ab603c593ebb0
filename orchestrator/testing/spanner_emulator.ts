/** Google's Spanner emulator, for tests. */
import type { Database, Spanner } from "@google-cloud/spanner";
import { loadSpanner } from "../store/spanner_library.ts";
import { eventually } from "../../tests/support/eventually.ts";

const PROJECT = "rbs-test";
const INSTANCE = "rbs";
const DEBIAN_PACKAGE = "google-cloud-cli-spanner-emulator";

/** Its program: what RBS_SPANNER_EMULATOR names, or that of Google's Debian package; undefined: none. */
const EMULATOR: string | undefined = Deno.env.get("RBS_SPANNER_EMULATOR") || fromPackage();

/** Whether it is here. */
export const hasEmulator = EMULATOR !== undefined;

/** Registers tests that need the emulator. Where it is missing, one ignored test says so in their place. */
export function withEmulator(register: () => void): void {
  if (EMULATOR) return register();
  const why = `RBS_SPANNER_EMULATOR names no emulator_main, and Debian's ${DEBIAN_PACKAGE} is not installed`;
  Deno.test.ignore(`not run: tests on Google's Spanner emulator (${why})`, () => {});
}

function fromPackage(): string | undefined {
  try {
    const { stdout } = new Deno.Command("dpkg", { args: ["-L", DEBIAN_PACKAGE], stderr: "null" }).outputSync();
    return new TextDecoder().decode(stdout).split("\n").find((path) => path.endsWith("/emulator_main"));
  } catch {
    return undefined; // No Debian.
  }
}

/**
 * A running emulator with an instance. SPANNER_EMULATOR_HOST names it, also for this process, until it is disposed of.
 */
export class SpannerEmulator implements AsyncDisposable {
  readonly #before = Deno.env.get("SPANNER_EMULATOR_HOST");
  readonly #child: Deno.ChildProcess;
  readonly #log: Promise<void>;
  #admin: Spanner | undefined;
  #databases = 0;

  private constructor(child: Deno.ChildProcess, log: Promise<void>, readonly address: string) {
    this.#child = child;
    this.#log = log;
    Deno.env.set("SPANNER_EMULATOR_HOST", address);
  }

  /** Starts one on a free port; for tests {@link withEmulator}. */
  static async start(): Promise<SpannerEmulator> {
    const child = new Deno.Command(EMULATOR!, {
      args: ["--host_port", "127.0.0.1:0"],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const listening = Promise.withResolvers<string>();
    const log = (async () => {
      let text = "";
      for await (const part of child.stderr.pipeThrough(new TextDecoderStream())) {
        const [, address] = /Server address: (\S+)\n/.exec(text += part) ?? [];
        if (address) listening.resolve(address);
      }
      listening.reject(new Error(`the Spanner emulator did not start: ${text}`));
    })();
    const emulator = new SpannerEmulator(child, log, await listening.promise);
    const { Spanner } = await loadSpanner();
    emulator.#admin = new Spanner({ projectId: PROJECT });
    const config = `projects/${PROJECT}/instanceConfigs/emulator-config`;
    const [, operation] = await emulator.#admin.createInstance(INSTANCE, { config, nodes: 1, displayName: INSTANCE });
    await operation.promise();
    return emulator;
  }

  /** @returns The full name of a new, empty database. */
  async newDatabase(): Promise<string> {
    const id = `d${++this.#databases}`;
    const [operation] = await this.#admin!.getDatabaseAdminClient().createDatabase({
      parent: `projects/${PROJECT}/instances/${INSTANCE}`,
      createStatement: `CREATE DATABASE ${id}`,
    });
    await operation.promise();
    return this.databaseName(id);
  }

  /** Works on a database without a store. */
  async use(name: string, work: (database: Database) => Promise<unknown>): Promise<void> {
    const [, projectId, , instance, , id] = name.split("/");
    const spanner = new (await loadSpanner()).Spanner({ projectId });
    const database = spanner.instance(instance).database(id, { min: 1 });
    await work(database);
    await database.close();
    await Promise.resolve(spanner.close());
  }

  async dropDatabase(database: string): Promise<void> {
    await this.#admin!.getDatabaseAdminClient().dropDatabase({ database });
  }

  /** The full name of a database, whether it is there or not. */
  databaseName(id: string): string {
    return `projects/${PROJECT}/instances/${INSTANCE}/databases/${id}`;
  }

  /** From now on it answers nobody, as behind a broken network, until {@link resume}. */
  async pause(): Promise<void> {
    this.#child.kill("SIGSTOP");
    // The signal is on its way, and the system tells nobody but by this.
    await eventually(() => this.#isStopped());
  }

  resume(): void {
    this.#child.kill("SIGCONT");
  }

  /** Ends the emulator's process at once. */
  async kill(): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.#child.status;
    await this.#log;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.resolve(this.#admin?.close());
    await this.kill();
    if (this.#before === undefined) Deno.env.delete("SPANNER_EMULATOR_HOST");
    else Deno.env.set("SPANNER_EMULATOR_HOST", this.#before);
  }

  #isStopped(): boolean {
    const tasks = `/proc/${this.#child.pid}/task`;
    const states = Array.from(Deno.readDirSync(tasks), ({ name }) => Deno.readTextFileSync(`${tasks}/${name}/stat`));
    return states.every((stat) => /\) T /.test(stat));
  }
}
