import { join } from "node:path";
import { run } from "../../support/run.ts";

/** The variable that says that this process is in a mount namespace of its own. */
export const OWN_MOUNTS = "RBS_CHAOS_OWN_MOUNTS";

/** Whether file systems can be mounted without anybody else's noticing. */
export const canMount = Deno.env.get(OWN_MOUNTS) === "1";

/** A file system of its own that can be filled. */
export class SmallDisk implements AsyncDisposable {
  readonly #filler: string;
  #isFull = false;

  private constructor(readonly path: string) {
    this.#filler = join(path, "filler");
  }

  /** @param path A folder that is there. */
  static async mount(path: string, megabytes: number): Promise<SmallDisk> {
    const { code, stderr } = await run(["mount", "-t", "tmpfs", "-o", `size=${megabytes}m,mode=0700`, "rbs", path]);
    if (code !== 0) throw new Error(stderr);
    return new SmallDisk(path);
  }

  get isFull(): boolean {
    return this.#isFull;
  }

  /** Takes all the room that there is. */
  fill(): void {
    if (this.#isFull) return;
    this.#isFull = true;
    using file = Deno.openSync(this.#filler, { write: true, create: true });
    try {
      for (const piece = new Uint8Array(1 << 12);;) file.writeSync(piece);
    } catch {
      // There is no more.
    }
  }

  /** Gives it back. */
  free(): void {
    if (this.#isFull) Deno.removeSync(this.#filler);
    this.#isFull = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run(["umount", "--lazy", this.path]);
  }
}

/**
 * Runs a command in a mount namespace of its own, which ends with it.
 *
 * @returns its exit code; undefined: there is no such namespace for this user, and nothing was run
 */
export async function withOwnMounts(command: readonly string[]): Promise<number | undefined> {
  if ((await run(["unshare", "--mount", "true"]).catch(() => undefined))?.code !== 0) return undefined;
  const child = new Deno.Command("unshare", {
    args: ["--mount", ...command],
    env: { [OWN_MOUNTS]: "1" },
  }).spawn();
  return (await child.status).code;
}
