import { join } from "node:path";
import { RbsError, sentence } from "../proto/errors.ts";
import { lookFor } from "../proto/tree/files.ts";
import { Beneath } from "./files/beneath.ts";
import { shell } from "./shell.ts";

/** What of the real output base is shown in the developer's own. */
export const LINKED_NAMES = [
  "execroot",
  "external",
  "command.log",
  "command.profile.gz",
  "java.log",
  "sandbox",
] as const;

/** What stood in a link's place before. */
const BEFORE = ".before-rbs";

/** Parts of a {@link LocalOutputBase}. */
export interface LocalOutputBaseOptions {
  /** The developer's output base, outside of the namespace; undefined: there is none. */
  outputBase?: string;
  /** Knows the session's output base in its storage. A synced session's developer has his output base elsewhere. */
  namespace: { readonly storageOutputBase: string; readonly synced?: boolean };
  /** Folders in which nothing is changed, whatever leads there. Absolute. @default none */
  hidden?: readonly string[];
}

/**
 * The developer's output base on the agent's machine: links by which `bazel-bin/…` leads to the storage.
 *
 * Programs of the session can write in the folders above it. So it is opened anew each time, looked at where it is then,
 * and changed beneath what was opened.
 */
export class LocalOutputBase {
  readonly #options: LocalOutputBaseOptions;
  /** The hidden folders, as they were before a program of the session ran. */
  #hidden?: Beneath[];

  constructor(options: LocalOutputBaseOptions) {
    this.#options = options.namespace.synced ? { ...options, outputBase: undefined } : options;
  }

  /**
   * Makes the links that are missing. What stood there before (an output base used without RBS) is kept as
   * `<name>.before-rbs`. Costs six readlinks when nothing is to be done. Rejects with an RbsError.
   */
  async ensure(): Promise<void> {
    const { outputBase } = this.#options;
    if (outputBase === undefined) return;
    await this.#change(outputBase, true, (files) => {
      for (const name of LINKED_NAMES) {
        const there = lookFor(files, name);
        if (there && this.#isLink(name, there)) continue;
        if (there && there.kind !== "symlink") {
          // An older copy from before RBS is worth less than the present one.
          remove(files, name + BEFORE);
          files.rename(name, name + BEFORE);
        } else remove(files, name);
        files.symlink(this.#target(name), name);
      }
    });
  }

  /** Takes the links away and puts back what stood there before: the developer's client will use a local server. */
  async restore(): Promise<void> {
    const { outputBase } = this.#options;
    if (outputBase === undefined) return;
    await this.#change(outputBase, false, (files) => {
      for (const name of LINKED_NAMES) {
        const there = lookFor(files, name);
        if (!there || !this.#isLink(name, there)) continue;
        files.remove(name);
        if (lookFor(files, name + BEFORE)) files.rename(name + BEFORE, name);
      }
    });
  }

  /** Empties the session's output base, and drops what the developer's held before RBS: `clean --expunge`. */
  async expunge(): Promise<void> {
    const { outputBase, namespace: { storageOutputBase } } = this.#options;
    await this.restore();
    if (outputBase !== undefined) {
      await this.#change(outputBase, false, (files) => {
        for (const name of LINKED_NAMES) remove(files, name);
      });
    }
    try {
      using storage = Beneath.open(storageOutputBase);
      for (const name of storage.names("")) remove(storage, name);
    } catch (cause) {
      if (cause instanceof Deno.errors.NotFound) return;
      throw new RbsError(
        `The session's output base ${storageOutputBase} cannot be emptied (${sentence(cause)}): mend its rights.`,
        { cause, culprit: "caller" },
      );
    }
  }

  #target(name: string): string {
    return join(this.#options.namespace.storageOutputBase, name);
  }

  #isLink(name: string, there: { kind: string; target?: string }): boolean {
    return there.kind === "symlink" && there.target === this.#target(name);
  }

  /** Does something in the output base; makes it, if it is not there and shall be. Rejects with an RbsError. */
  async #change(outputBase: string, make: boolean, act: (files: Beneath) => void): Promise<void> {
    try {
      using files = await open(outputBase, make);
      if (!files) return;
      if (files.isIn(this.#hidden ??= openAll(this.#options.hidden ?? []))) {
        throw new Error("it leads to where sessions have no business");
      }
      act(files);
    } catch (cause) {
      throw new RbsError(
        `The links in the output base ${outputBase} cannot be made (${
          sentence(cause)
        }): mend the rights of that folder.`,
        { cause, culprit: "caller" },
      );
    }
  }
}

async function open(outputBase: string, make: boolean): Promise<Beneath | undefined> {
  try {
    return Beneath.open(outputBase);
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
    if (!make) return undefined;
  }
  const { code, stderr } = await shell(`mkdir -p -- "$1"`, [outputBase]);
  if (code !== 0) throw new Error(stderr.trim().split("\n")[0]);
  return Beneath.open(outputBase);
}

function openAll(folders: readonly string[]): Beneath[] {
  return folders.flatMap((folder) => {
    try {
      return [Beneath.open(folder)];
    } catch {
      // What is not there, or is no folder, holds nothing.
      return [];
    }
  });
}

function remove(files: Beneath, name: string): void {
  try {
    files.remove(name, { recursive: true });
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
  }
}
