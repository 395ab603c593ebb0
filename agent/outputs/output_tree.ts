import { basename, dirname, resolve } from "node:path";
import type { Entry } from "../../proto/tree/entry.ts";
import { type Files, type RawInfo, readFile } from "../../proto/tree/files.ts";
import { isRaw } from "../../proto/tree/names.ts";
import type { AgentRepositories } from "./agent_repositories.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import type { Looks } from "../../proto/tree/stat_snapshot.ts";
import { isWholeOutput } from "../../proto/bazel/whole_output.ts";

/** A file, directory or symlink for the developer. Its path is the developer's, absolute, and free of symlinks. */
export interface Found extends Entry {
  /** With size and mtime, identifies the content of a file. */
  ino: number;
  ctimeMs: number;
  /** Where it is in the storage, if its path does not say. */
  here?: string;
}

/** Options of {@link OutputTree}. */
export interface OutputTreeOptions {
  /** The developer's absolute path. */
  outputBase: string;
  /** The session's files. */
  files: Files;
  /** The output base's path in `files`. */
  storage: string;
  /** Maximum number of entries. */
  limit: number;
  /** Records what was looked at. */
  looks: Looks;
  /** Repositories outside the output base. @default none */
  repositories?: AgentRepositories;
}

/** The directories of an output base with outputs, and with the external repositories that runfiles lead to. */
const OUTPUTS = ["execroot", "external"];
/** Matches a path with "..", "." or an empty name. */
const NOT_NORMAL = /\/\.{0,2}(\/|$)/;
/** Maximum number of symlinks in the resolution of a path, as in Linux. */
const MAX_LINKS = 40;
/** Maximum depth of directories, including those that symlinks on the way lead through. */
const MAX_DEPTH = 1000;
/** Maximum number of names that are not UTF-8: for each, the laptop starts a program, which takes milliseconds. */
const MAX_RAW_NAMES = 1000;
/** Larger runfiles manifests are not read. Bytes. */
const MAX_MANIFEST_BYTES = 64 << 20;

/**
 * Collects outputs and everything that they lead to, as long as that is an output or in an external repository.
 * Anything else the developer already has, or must not get.
 *
 *     …/bin/tool.runfiles/ws/lib.so -> …/bin/_solib_k8/lib.so -> …/bin/lib.so
 *
 * Symlinks lead to developer's paths, so the operating system must not follow them here: each name of a path is looked
 * at separately.
 */
export class OutputTree {
  readonly #options: OutputTreeOptions;
  readonly #pace = new Pace();
  readonly #entries = new Map<string, Found>();
  /** By requested path: the directory's real path, or undefined if it is not a directory. */
  readonly #folders = new Map<string, string | undefined>();
  /** Directories that were collected completely. */
  readonly #whole = new Set<string>();
  /** Those of them that are outputs, or in one. */
  readonly #trees = new Set<string>();
  /** Paths that still have to be added. */
  readonly #pending: string[] = [];
  readonly #names = new Map<string, ReadonlySet<string>>();
  /** By the repository's path. Filled when the first path needs it. */
  #moved?: Map<string, { folder: string; here: string }>;
  /** Number of collected names that are not UTF-8. */
  #rawNames = 0;
  #full = false;
  #depth = 0;

  constructor(options: OutputTreeOptions) {
    this.#options = options;
    this.#folders.set(options.outputBase, options.outputBase);
  }

  /** The collected entries, in no order. */
  get entries(): Iterable<Found> {
    return this.#entries.values();
  }

  /** The collected directories that are outputs, with everything in them. */
  get trees(): ReadonlySet<string> {
    return this.#trees;
  }

  /** Whether exactly this path was collected. */
  has(path: string): boolean {
    return this.#entries.has(path);
  }

  /** The kind of a path, without following a symlink; undefined if it does not exist. */
  kindAt(path: string): RawInfo["kind"] | undefined {
    return this.#lstat(path)?.kind;
  }

  /** Whether the limit was exceeded. */
  get full(): boolean {
    return this.#full;
  }

  /** One sentence for each reason why something is not copied. */
  get warnings(): string[] {
    const warnings: string[] = [];
    if (this.#full) {
      const { limit } = this.#options;
      warnings.push(
        `Only ${limit} files of this command are copied: build fewer targets at once, or set RBS_OUTPUTS=minimal.`,
      );
    }
    if (this.#rawNames > MAX_RAW_NAMES) {
      warnings.push(
        `Of ${this.#rawNames} outputs whose names are not UTF-8, only ${MAX_RAW_NAMES} are copied: give them other names.`,
      );
    }
    return warnings;
  }

  /** Adds a path: a file, a directory with everything in it, or a symlink and what it leads to. */
  async add(path: string): Promise<void> {
    this.#pending.push(path);
    for (let next = this.#pending.pop(); next !== undefined; next = this.#pending.pop()) {
      if (this.#pace.due) await this.#pace.rest();
      const found = this.#resolve(next);
      if (!found || !this.#isOutput(found.path)) continue;
      this.#record(found.path, found.info);
      // A link may lead to a directory that is not wanted as a whole: all outputs of a configuration, all repositories.
      const isWhole = isWholeOutput(found.path.slice(this.#options.outputBase.length + 1));
      if (found.info.kind !== "directory" || !isWhole) continue;
      this.#trees.add(found.path);
      await this.#addAllIn(found.path);
    }
  }

  /** Adds a file, and the symlinks by which a path leads to it. */
  async addFile(path: string): Promise<void> {
    if (this.#resolve(path)?.info.kind === "file") await this.add(path);
  }

  /** Adds the symlinks on a path, but not what the path leads to. */
  addLinks(path: string): void {
    this.#resolve(path);
  }

  /** Adds a directory and everything in it, even if it holds the outputs of all targets. */
  async addAllIn(path: string): Promise<void> {
    const folder = this.#folder(path);
    if (folder === undefined || !this.#isOutput(folder)) return;
    await this.#addAllIn(folder);
    await this.add(folder);
  }

  /** Adds a directory without its contents. */
  addFolder(path: string): void {
    const found = this.#resolve(path);
    if (found?.info.kind === "directory" && this.#isOutput(found.path)) this.#record(found.path, found.info);
  }

  /** Adds an output and, if it is an executable with runfiles, those. */
  async addExecutable(path: string): Promise<void> {
    await this.add(path);
    const folder = this.#folder(dirname(path)), name = basename(path);
    if (folder === undefined || !this.#isOutput(folder)) return;
    const names = this.#namesIn(folder);
    const [tree, manifest, repositories] = [".runfiles", ".runfiles_manifest", ".repo_mapping"]
      .map((suffix) => names.has(name + suffix) ? `${folder}/${name}${suffix}` : undefined);
    if (repositories) await this.add(repositories);
    if (tree) await this.add(tree);
    if (!manifest) return;
    await this.add(manifest);
    // Without a tree (--nobuild_runfile_links, --noenable_runfiles) a program uses the manifest.
    const hasTree = tree !== undefined && [...this.#namesIn(tree)].some((name) => name !== "MANIFEST");
    if (!hasTree) { for (const target of this.#manifestTargets(manifest)) await this.add(target); }
  }

  /** The targets of symlinks become pending. */
  async #addAllIn(folder: string): Promise<void> {
    const folders = [folder];
    for (let next = folders.pop(); next !== undefined && !this.#full; next = folders.pop()) {
      if (this.#whole.has(next)) continue;
      this.#whole.add(next);
      this.#folders.set(next, next);
      if (this.#pace.due) await this.#pace.rest();
      for (const name of this.#list(next)) {
        if (this.#pace.due) await this.#pace.rest();
        const path = `${next}/${name}`;
        const info = this.#lstat(path);
        if (!info) continue;
        if (info.kind === "symlink") {
          const target = this.#recordSymlink(path, info);
          if (target !== undefined) this.#pending.push(target);
        } else {
          this.#record(path, info);
          if (info.kind === "directory") folders.push(path);
        }
      }
    }
  }

  /** The final target of a path. Records the symlinks on the way. */
  #resolve(path: string): { path: string; info: RawInfo } | undefined {
    for (let links = 0; links <= MAX_LINKS; links++) {
      if (!this.#mayBeOutput(path)) return undefined;
      const folder = this.#folder(dirname(path));
      if (folder === undefined) return undefined;
      const real = `${folder}/${basename(path)}`;
      const info = this.#lstat(real);
      if (info?.kind !== "symlink") return info && { path: real, info };
      const target = this.#isOutput(real) ? this.#recordSymlink(real, info) : undefined;
      if (target === undefined) return undefined;
      path = target;
    }
  }

  /** The real path of a directory. */
  #folder(path: string): string | undefined {
    if (this.#folders.has(path)) return this.#folders.get(path);
    if (this.#depth >= MAX_DEPTH) return undefined;
    this.#folders.set(path, undefined); // Ends a loop of symlinks.
    this.#depth++;
    const found = this.#resolve(path);
    this.#depth--;
    const folder = found?.info.kind === "directory" ? found.path : undefined;
    this.#folders.set(path, folder);
    return folder;
  }

  /** @returns the symlink's target, absolute */
  #recordSymlink(path: string, info: RawInfo): string | undefined {
    const target = this.#entries.get(path)?.target ?? info.target!;
    const lead = resolve(dirname(path), target);
    const shown = this.#shown(lead);
    this.#record(path, info, shown === lead ? target : shown);
    return shown;
  }

  /** The developer's path for a path that is in a repository outside the output base. */
  #shown(path: string): string {
    if (path.startsWith(`${this.#options.outputBase}/`)) return path;
    for (const [repository, { folder }] of this.#repositories()) {
      if (path === folder || path.startsWith(`${folder}/`)) return repository + path.slice(folder.length);
    }
    return path;
  }

  #repositories(): ReadonlyMap<string, { folder: string; here: string }> {
    if (this.#moved) return this.#moved;
    this.#moved = new Map();
    for (const { repository, folder, here } of this.#options.repositories?.all() ?? []) {
      this.#moved.set(repository, { folder, here });
      // Another link would give another result.
      this.#options.looks.look(this.#options.storage + repository.slice(this.#options.outputBase.length));
    }
    return this.#moved;
  }

  #record(path: string, info: RawInfo, target?: string): void {
    const { kind } = info;
    // Neither a socket nor its name is an output.
    if (kind === "other" || this.#entries.has(path)) return;
    if (this.#entries.size >= this.#options.limit) return void (this.#full = true);
    if ((isRaw(path) || target !== undefined && isRaw(target)) && ++this.#rawNames > MAX_RAW_NAMES) return;
    const here = this.#here(path);
    const isElsewhere = here !== this.#options.storage + path.slice(this.#options.outputBase.length);
    this.#entries.set(path, { ...found(path, kind, info, target), ...isElsewhere && { here } });
  }

  /** Whether a path may be an output at all. */
  #mayBeOutput(path: string): boolean {
    const { outputBase } = this.#options;
    return OUTPUTS.some((name) => path === `${outputBase}/${name}` || path.startsWith(`${outputBase}/${name}/`)) &&
      !NOT_NORMAL.test(path);
  }

  #isOutput(path: string): boolean {
    const { outputBase } = this.#options;
    return OUTPUTS.some((name) => path.startsWith(`${outputBase}/${name}/`));
  }

  *#manifestTargets(path: string): Generator<string> {
    const info = this.#lstat(path);
    if (info?.kind !== "file" || info.size > MAX_MANIFEST_BYTES) return;
    // "name target"; since 7.4, lines that start with a space have escapes in both.
    const unescape = { "\\s": " ", "\\n": "\n", "\\b": "\\" } as Record<string, string>;
    const text = new TextDecoder().decode(readFile(this.#options.files, this.#here(path), MAX_MANIFEST_BYTES));
    // Line by line: the session can write millions of lines, and a list of them would be many times as large as the
    // file.
    for (let at = 0, end; at < text.length && !this.#full; at = end + 1) {
      end = text.indexOf("\n", at);
      if (end < 0) end = text.length;
      const line = text.slice(at, end);
      const target = line.slice(line.indexOf(" ", 1) + 1);
      if (target === "") continue;
      yield line.startsWith(" ") ? target.replace(/\\[snb]/g, (escape) => unescape[escape]) : target;
    }
  }

  #namesIn(folder: string): ReadonlySet<string> {
    let names = this.#names.get(folder);
    if (!names) this.#names.set(folder, names = new Set(this.#list(folder)));
    return names;
  }

  #lstat(path: string): RawInfo | undefined {
    return this.#options.looks.look(this.#here(path));
  }

  #list(folder: string): string[] {
    const here = this.#here(folder);
    this.#options.looks.list(here);
    try {
      return this.#options.files.names(here);
    } catch {
      return [];
    }
  }

  #here(path: string): string {
    const external = `${this.#options.outputBase}/external/`;
    if (path.startsWith(external)) {
      const end = path.indexOf("/", external.length);
      const repository = end < 0 ? path : path.slice(0, end);
      const moved = this.#repositories().get(repository);
      if (moved) return moved.here + path.slice(repository.length);
    }
    return this.#options.storage + path.slice(this.#options.outputBase.length);
  }
}

/** An entry for a stat. */
export function found(path: string, kind: Entry["kind"], info: RawInfo, target?: string): Found {
  const isFile = kind === "file";
  return {
    path,
    kind,
    mode: target === undefined ? info.mode & 0o7777 : 0,
    size: isFile ? info.size : 0,
    mtimeMs: isFile ? info.mtimeMs : 0,
    ino: info.ino,
    ctimeMs: info.ctimeMs,
    ...target !== undefined && { target },
  };
}
