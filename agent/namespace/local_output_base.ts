import { basename, dirname, join } from "node:path";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { lookFor, type RawInfo } from "../../proto/tree/files.ts";
import { isServerLog } from "../../proto/bazel/server_logs.ts";
import { Beneath } from "../files/beneath.ts";
import { openIfThere, openOrMake } from "../files/open_or_make.ts";

/**
 * The names in the real output base that the developer's links to. Of `external`, only the repositories are linked.
 */
export const LINKED_NAMES = [
  "execroot",
  "command.log",
  "command.profile.gz",
  "java.log",
] as const;

/** Those that may be symlinks in the real output base. */
const LOGS = ["command.profile.gz", "java.log"];
/** By the first a Bazel server trusts outputs; the second holds its repositories. */
const ACTIONS = "action_cache", REPOSITORIES = "external";
/** File times advance in steps of the kernel's clock, up to 10 ms, and lag more on a busy machine. Milliseconds. */
const TICK_MS = 100;
/** A link that older RBS versions made. */
const SANDBOX = "sandbox";
/** Suffix for what a link replaced. */
const BEFORE = ".before-rbs";

/** Options of {@link LocalOutputBase}. */
export interface LocalOutputBaseOptions {
  /** The developer's output base, outside of the namespace; undefined if there is none. */
  outputBase?: string;
  /**
   * Knows the session's output base in its storage. In a synced session the developer's output base is on another
   * machine.
   */
  namespace: {
    readonly storageOutputBase: string;
    readonly synced?: boolean;
    /**
     * The session's own directory, and the output base's path in it. @default the output base is opened by its path
     */
    readonly storage?: Beneath;
    readonly storageOutputBaseName?: string;
    /** Open directories outside of which nothing is changed. Undefined if the session has the agent's rights. */
    readonly own?: readonly Beneath[];
  };
  /** Directories in which nothing is changed, whatever leads there. Absolute paths. @default none */
  hidden?: readonly string[];
}

/**
 * The developer's output base on the agent's machine: links by which `bazel-bin/…` leads to the storage.
 *
 *     execroot, command.log, …  -> storage/…
 *     external/REPOSITORY       -> storage/external/REPOSITORY
 *
 * A local Bazel server may start there later, even after all of RBS was killed. It must not trust what is behind the
 * links: it knows repositories by `external/@REPOSITORY.marker`, which is not linked, and outputs by `action_cache`,
 * which is put aside.
 *
 * The session's programs can write in the directories above. So each time, the output base is opened again, checked
 * where it is then, and changed beneath the opened directory.
 */
export class LocalOutputBase {
  readonly #options: LocalOutputBaseOptions;
  /** The hidden directories, opened before any program of the session ran. */
  #hidden?: Beneath[];
  /** The stats of both `external` directories when the links were made. */
  #repositories?: string;

  constructor(options: LocalOutputBaseOptions) {
    this.#options = options.namespace.synced ? { ...options, outputBase: undefined } : options;
  }

  /**
   * Makes missing links. What they replace (of an output base used without RBS) is kept as `<name>.before-rbs`. Costs
   * one look per link if nothing has to be done. Rejects with an RbsError.
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
      // Servers since Bazel 7 reuse sandboxes of an earlier server.
      if (lookFor(files, SANDBOX)?.kind === "symlink") files.remove(SANDBOX);
      if (lookFor(files, ACTIONS)) putAside(files, ACTIONS);
      this.#linkRepositories(files);
    });
  }

  /** Removes the links and restores what they replaced, for a local server of the developer's client. */
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

  /** The files to which the server's log and profile are links: `bazel info server_log` names the first. */
  #logs(): string[] {
    using storage = openIfThere(this.#options.namespace.storageOutputBase);
    const targets = LOGS.map((name) => storage && lookFor(storage, name)?.target?.split("/").at(-1));
    return targets.filter((name) => name !== undefined && isServerLog(name) && !LOGS.includes(name)) as string[];
  }

  /** Links the session's repositories, but nothing that says where they come from. */
  #linkRepositories(files: Beneath): void {
    using storage = openIfThere(this.#options.namespace.storageOutputBase);
    const theirs = () => storage && lookOf(storage);
    if (this.#repositories !== undefined && this.#repositories === shown(lookOf(files), theirs())) return;
    // Taken before the listing: a repository that appears meanwhile is linked next time.
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
    // A further change in the same clock step would not show.
    const settled = [before, after].every((look) => look === undefined || Date.now() - look.mtimeMs > TICK_MS);
    this.#repositories = settled ? shown(after, before) : undefined;
  }

  /** Whether the developer's `external` contains only links to repositories of this user's sessions. */
  #isOurs(files: Beneath): boolean {
    return files.names(REPOSITORIES).every((name) => {
      const path = `${REPOSITORIES}/${name}`;
      const there = lookFor(files, path);
      return there === undefined || this.#isLink(path, there) || this.#wasLink(path, there);
    });
  }

  /** Whether it is a link into another storage beside this session's, which had the output base before. */
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

  /** Opens the output base, creating it if `make` is set, and changes it. Throws an RbsError. */
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
      // The agent is root and the session is not, and a symlink of the session may lead anywhere.
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
      // Nothing can be in what does not exist or is not a directory.
      return [];
    }
  });
}

/**
 * The stat of the `external` directory, which changes when an entry is added or removed. Undefined if it does not
 * exist.
 */
function lookOf(outputBase: Beneath): RawInfo | undefined {
  const there = lookFor(outputBase, REPOSITORIES);
  return there?.kind === "directory" ? there : undefined;
}

function shown(...looks: (RawInfo | undefined)[]): string {
  return looks.map((look) => look && `${look.ino}@${look.mtimeMs}`).join(" ");
}

/** The repositories in `external`, without a server's records of them. */
function repositoriesIn(outputBase: Beneath): string[] {
  return outputBase.names(REPOSITORIES).filter((name) => {
    if (name.startsWith("@") || name.endsWith(".marker") || name.endsWith(".recorded_inputs")) return false;
    const kind = lookFor(outputBase, `${REPOSITORIES}/${name}`)?.kind;
    return kind === "directory" || kind === "symlink";
  });
}

/** The present entry replaces an older copy from before RBS. */
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
