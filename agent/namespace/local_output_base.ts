import { basename, dirname, join } from "node:path";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { lookFor, type RawInfo } from "../../proto/tree/files.ts";
import { isServerLog } from "../../proto/bazel/server_logs.ts";
import { Beneath } from "../files/beneath.ts";
import { openIfThere, openOrMake } from "../files/open_or_make.ts";

/** What of the real output base is shown in the developer's own; of `external` only the repositories themselves. */
export const LINKED_NAMES = [
  "execroot",
  "command.log",
  "command.profile.gz",
  "java.log",
] as const;

/** Those of them that are links in the real one, perhaps. */
const LOGS = ["command.profile.gz", "java.log"];
/** By what a Bazel server knows outputs, and where its repositories are. */
const ACTIONS = "action_cache", REPOSITORIES = "external";
/** Times of files come in steps of the kernel's clock, up to 10 ms, and later on a busy machine. Milliseconds. */
const TICK_MS = 100;
/** What an older RBS has linked as well. */
const SANDBOX = "sandbox";
/** What stood in a link's place before. */
const BEFORE = ".before-rbs";

/** Parts of a {@link LocalOutputBase}. */
export interface LocalOutputBaseOptions {
  /** The developer's output base, outside of the namespace; undefined: there is none. */
  outputBase?: string;
  /** Knows the session's output base in its storage. A synced session's developer has his output base elsewhere. */
  namespace: {
    readonly storageOutputBase: string;
    readonly synced?: boolean;
    /** The session's own folder, and where the output base is in it. @default the output base is opened by its path */
    readonly storage?: Beneath;
    readonly storageOutputBaseName?: string;
    /** Folders outside of which nothing is changed, open; undefined: the session may itself do all that the agent may. */
    readonly own?: readonly Beneath[];
  };
  /** Folders in which nothing is changed, whatever leads there. Absolute. @default none */
  hidden?: readonly string[];
}

/**
 * The developer's output base on the agent's machine: links by which `bazel-bin/…` leads to the storage.
 *
 *     execroot, command.log, …  -> storage/…
 *     external/REPOSITORY       -> storage/external/REPOSITORY
 *
 * A Bazel server of the developer's own may come to stand there one day, be it that all of RBS was killed. It must not
 * believe what is behind the links: it knows repositories by `external/@REPOSITORY.marker`, which is not shown, and
 * outputs by `action_cache`, which is put aside.
 *
 * Programs of the session can write in the folders above it. So it is opened anew each time, looked at where it is then,
 * and changed beneath what was opened.
 */
export class LocalOutputBase {
  readonly #options: LocalOutputBaseOptions;
  /** The hidden folders, as they were before a program of the session ran. */
  #hidden?: Beneath[];
  /** How both folders of repositories looked when the links were made. */
  #repositories?: string;

  constructor(options: LocalOutputBaseOptions) {
    this.#options = options.namespace.synced ? { ...options, outputBase: undefined } : options;
  }

  /**
   * Makes the links that are missing. What stood there before (an output base used without RBS) is kept as
   * `<name>.before-rbs`. Costs a look at each link when nothing is to be done. Rejects with an RbsError.
   */
  // deno-lint-ignore require-await
  async ensure(): Promise<void> {
    const { outputBase } = this.#options;
    if (outputBase === undefined) return;
    this.#change(outputBase, true, (files) => {
      for (const name of [...LINKED_NAMES, ...this.#logs()]) {
        const there = lookFor(files, name);
        if (there && this.#isLink(name, there)) continue;
        if (there && there.kind !== "symlink") putAside(files, name);
        else remove(files, name);
        files.symlink(this.#target(name), name);
      }
      // Servers since 7 use sandboxes that an earlier one has left.
      if (lookFor(files, SANDBOX)?.kind === "symlink") files.remove(SANDBOX);
      if (lookFor(files, ACTIONS)) putAside(files, ACTIONS);
      this.#linkRepositories(files);
    });
  }

  /** Takes the links away and puts back what stood there before: the developer's client will use a local server. */
  // deno-lint-ignore require-await
  async restore(): Promise<void> {
    const { outputBase } = this.#options;
    if (outputBase === undefined) return;
    this.#repositories = undefined;
    this.#change(outputBase, false, (files) => {
      for (const name of [...LINKED_NAMES, ...files.names("").filter(isServerLog)]) {
        const there = lookFor(files, name);
        if (!there || !this.#isLink(name, there)) continue;
        files.remove(name);
        putBack(files, name);
      }
      const there = lookFor(files, REPOSITORIES);
      if (there && (this.#isLink(REPOSITORIES, there) || (there.kind === "directory" && this.#isOurs(files)))) {
        remove(files, REPOSITORIES);
      }
      for (const name of [REPOSITORIES, ACTIONS]) if (!lookFor(files, name)) putBack(files, name);
    });
  }

  /** Empties the session's output base, and drops what the developer's held before RBS: `clean --expunge`. */
  async expunge(): Promise<void> {
    const { outputBase, namespace } = this.#options;
    const { storageOutputBase, storageOutputBaseName: name } = namespace;
    await this.restore();
    if (outputBase !== undefined) {
      this.#change(outputBase, false, (files) => {
        for (const name of [...LINKED_NAMES, REPOSITORIES, ACTIONS]) remove(files, name);
      });
    }
    try {
      using storage = name === undefined ? Beneath.open(storageOutputBase) : namespace.storage!.beneath(name);
      for (const name of storage.names("")) remove(storage, name);
    } catch (cause) {
      if (cause instanceof Deno.errors.NotFound) return;
      throw new RbsError(
        `The session's output base ${storageOutputBase} cannot be emptied (${sentence(cause)}): fix its permissions.`,
        { cause, culprit: "caller" },
      );
    }
  }

  /** What the server's log and profile are links to: `bazel info server_log` names the one. */
  #logs(): string[] {
    using storage = openIfThere(this.#options.namespace.storageOutputBase);
    const targets = LOGS.map((name) => storage && lookFor(storage, name)?.target?.split("/").at(-1));
    return targets.filter((name) => name !== undefined && isServerLog(name) && !LOGS.includes(name)) as string[];
  }

  /** Shows the session's repositories, and nothing that says where they come from. */
  #linkRepositories(files: Beneath): void {
    using storage = openIfThere(this.#options.namespace.storageOutputBase);
    const theirs = () => storage && lookOf(storage);
    if (this.#repositories !== undefined && this.#repositories === shown(lookOf(files), theirs())) return;
    // Before they are listed: one that comes meanwhile is linked the next time.
    const before = theirs();
    const there = lookFor(files, REPOSITORIES);
    if (there?.kind === "symlink") files.remove(REPOSITORIES);
    else if (there && (there.kind !== "directory" || !this.#isOurs(files))) putAside(files, REPOSITORIES);
    files.makeWay(REPOSITORIES);
    const wanted = new Set(before === undefined ? [] : repositoriesIn(storage!));
    const linked = new Set<string>();
    for (const name of files.names(REPOSITORIES)) {
      const path = `${REPOSITORIES}/${name}`;
      const there = lookFor(files, path);
      if (there && this.#isLink(path, there) && wanted.has(name)) linked.add(name);
      else remove(files, path);
    }
    for (const name of wanted) {
      const path = `${REPOSITORIES}/${name}`;
      if (!linked.has(name)) files.symlink(this.#target(path), path);
    }
    const after = lookOf(files);
    // What changes once more in the same moment would not look changed.
    const settled = [before, after].every((look) => look === undefined || Date.now() - look.mtimeMs > TICK_MS);
    this.#repositories = settled ? shown(after, before) : undefined;
  }

  /** Whether nothing but links to repositories of this user's sessions is in the developer's folder of them. */
  #isOurs(files: Beneath): boolean {
    return files.names(REPOSITORIES).every((name) => {
      const path = `${REPOSITORIES}/${name}`;
      const there = lookFor(files, path);
      return there === undefined || this.#isLink(path, there) || this.#wasLink(path, there);
    });
  }

  /** Whether it is a link into the storage beside this session's: what had the output base before, under another name. */
  #wasLink(path: string, there: { kind: string; target?: string }): boolean {
    const { storageOutputBase } = this.#options.namespace;
    const storage = dirname(storageOutputBase);
    const beside = there.target?.slice(0, -join("/", basename(storageOutputBase), path).length) ?? "";
    return there.kind === "symlink" && dirname(beside) === dirname(storage) &&
      there.target === join(beside, basename(storageOutputBase), path);
  }

  #target(name: string): string {
    return join(this.#options.namespace.storageOutputBase, name);
  }

  #isLink(name: string, there: { kind: string; target?: string }): boolean {
    return there.kind === "symlink" && there.target === this.#target(name);
  }

  /** Does something in the output base; makes it, if it is not there and shall be. Throws an RbsError. */
  #change(outputBase: string, make: boolean, act: (files: Beneath) => void): void {
    try {
      using files = this.#open(outputBase, make);
      if (files) act(files);
    } catch (cause) {
      throw new RbsError(
        `The links in the output base ${outputBase} cannot be made (${
          sentence(cause)
        }): fix the permissions of that folder.`,
        { cause, culprit: "caller" },
      );
    }
  }

  #open(outputBase: string, make: boolean): Beneath | undefined {
    return openOrMake(outputBase, make, (folder) => {
      if (folder.isIn(this.#hidden ??= openAll(this.#options.hidden ?? []))) {
        throw new Error("it leads to where sessions have no business");
      }
      // The agent is root, and the session is not, where a symlink of the session's may lead.
      const { own } = this.#options.namespace;
      if (own && !folder.isIn(own)) throw new Error("it leads out of the folders in which the session may write");
    });
  }
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

/** How a folder of repositories looks: a name that is made in it, or goes, changes that. Undefined if there is none. */
function lookOf(outputBase: Beneath): RawInfo | undefined {
  const there = lookFor(outputBase, REPOSITORIES);
  return there?.kind === "directory" ? there : undefined;
}

function shown(...looks: (RawInfo | undefined)[]): string {
  return looks.map((look) => look && `${look.ino}@${look.mtimeMs}`).join(" ");
}

/** Repositories that are there: not what a server remembers them by. */
function repositoriesIn(outputBase: Beneath): string[] {
  return outputBase.names(REPOSITORIES).filter((name) => {
    if (name.startsWith("@") || name.endsWith(".marker") || name.endsWith(".recorded_inputs")) return false;
    const kind = lookFor(outputBase, `${REPOSITORIES}/${name}`)?.kind;
    return kind === "directory" || kind === "symlink";
  });
}

/** An older copy from before RBS is worth less than the present one. */
function putAside(files: Beneath, name: string): void {
  remove(files, name + BEFORE);
  files.rename(name, name + BEFORE);
}

function putBack(files: Beneath, name: string): void {
  if (lookFor(files, name + BEFORE)) files.rename(name + BEFORE, name);
}

function remove(files: Beneath, name: string): void {
  try {
    files.remove(name, { recursive: true });
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
  }
}
