import { basename, dirname, resolve } from "node:path";
import type { Entry } from "../../proto/tree/entry.ts";
import { type Files, type RawInfo, readFile } from "../../proto/tree/files.ts";
import { isRaw } from "../../proto/tree/names.ts";
import type { AgentRepositories } from "./agent_repositories.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import type { Looks } from "../../proto/tree/stat_snapshot.ts";
import { isWholeOutput } from "../../proto/bazel/whole_output.ts";

/** A file, folder or symlink for the developer. Its path is the developer's, absolute, and leads through no symlink. */
export interface Found extends Entry {
  /** With size and mtime, what tells one content of a file from the next. */
  ino: number;
  ctimeMs: number;
  /** Where it is in the storage, if not where its path says. */
  here?: string;
}

/** Parts of an {@link OutputTree}. */
export interface OutputTreeOptions {
  /** The output base by the developer's name, absolute. */
  outputBase: string;
  /** What the session's files are read with, */
  files: Files;
  /** and where the output base is among them. */
  storage: string;
  /** The most entries. */
  limit: number;
  /** Remembers what was looked at. */
  looks: Looks;
  /** Repositories that lie elsewhere. @default none */
  repositories?: AgentRepositories;
}

/** Of an output base: where outputs are, and the external repositories that runfiles lead to. */
const OUTPUTS = ["execroot", "external"];
/** A path with "..", "." or nothing among its names. */
const NOT_NORMAL = /\/\.{0,2}(\/|$)/;
/** The most symlinks that a path may lead through, as in Linux. */
const MAX_LINKS = 40;
/** The most folders within folders, those counted that symlinks on the way lead through. */
const MAX_DEPTH = 1000;
/** Of names that are not UTF-8, each costs the laptop a program that can name it, some milliseconds long. */
const MAX_RAW_NAMES = 1000;
/** Larger runfiles manifests are not read. Bytes. */
const MAX_MANIFEST_BYTES = 64 << 20;

/**
 * Gathers outputs and all that they lead to, as long as that is an output too, or in an external repository: what is
 * elsewhere, the developer has already or shall not get.
 *
 *     …/bin/tool.runfiles/ws/lib.so -> …/bin/_solib_k8/lib.so -> …/bin/lib.so
 *
 * Symlinks lead to the developer's paths. So the operating system must not follow them here: each name of a path is
 * looked at by itself.
 */
export class OutputTree {
  readonly #options: OutputTreeOptions;
  readonly #pace = new Pace();
  readonly #entries = new Map<string, Found>();
  /** By the path that was asked for: the folder's real path, or undefined where is none. */
  readonly #folders = new Map<string, string | undefined>();
  /** Folders of which all is gathered. */
  readonly #whole = new Set<string>();
  /** Those of them that are outputs, or in one. */
  readonly #trees = new Set<string>();
  /** Paths that are still to be added. */
  readonly #pending: string[] = [];
  readonly #names = new Map<string, ReadonlySet<string>>();
  /** By the repository's path; looked for when the first path needs them. */
  #moved?: Map<string, { folder: string; here: string }>;
  /** Of the names among what was gathered that are not UTF-8. */
  #rawNames = 0;
  #full = false;
  #depth = 0;

  constructor(options: OutputTreeOptions) {
    this.#options = options;
    this.#folders.set(options.outputBase, options.outputBase);
  }

  /** What was gathered, in no order. */
  get entries(): Iterable<Found> {
    return this.#entries.values();
  }

  /** The folders among them that are outputs, with all that is in them. */
  get trees(): ReadonlySet<string> {
    return this.#trees;
  }

  /** Whether something was gathered at just this path. */
  has(path: string): boolean {
    return this.#entries.has(path);
  }

  /** What is at just this path, no symlink followed; undefined: nothing. */
  kindAt(path: string): RawInfo["kind"] | undefined {
    return this.#lstat(path)?.kind;
  }

  /** Whether there was more than the limit. */
  get full(): boolean {
    return this.#full;
  }

  /** One sentence for each kind of thing that does not come home. */
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

  /** Adds what is at a path: a file, a folder with all that is in it, a symlink and what it leads to. */
  async add(path: string): Promise<void> {
    this.#pending.push(path);
    for (let next = this.#pending.pop(); next !== undefined; next = this.#pending.pop()) {
      if (this.#pace.due) await this.#pace.rest();
      const found = this.#resolve(next);
      if (!found || !this.#isOutput(found.path)) continue;
      this.#record(found.path, found.info);
      // A link may lead to what nobody wants as a whole: all outputs of a configuration, all repositories.
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

  /** Adds the symlinks by which a path leads to something, and not that. */
  addLinks(path: string): void {
    this.#resolve(path);
  }

  /** Adds a folder and all that is in it, even if it holds the outputs of all targets. */
  async addAllIn(path: string): Promise<void> {
    const folder = this.#folder(path);
    if (folder === undefined || !this.#isOutput(folder)) return;
    await this.#addAllIn(folder);
    await this.add(folder);
  }

  /** Adds a folder, and nothing of what is in it. */
  addFolder(path: string): void {
    const found = this.#resolve(path);
    if (found?.info.kind === "directory" && this.#isOutput(found.path)) this.#record(found.path, found.info);
  }

  /** Adds an output, and if it is an executable with runfiles, these. */
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
    // Without a tree (--nobuild_runfile_links, --noenable_runfiles) a program goes by the manifest.
    const hasTree = tree !== undefined && [...this.#namesIn(tree)].some((name) => name !== "MANIFEST");
    if (!hasTree) { for (const target of this.#manifestTargets(manifest)) await this.add(target); }
  }

  /** What symlinks lead to becomes pending. */
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

  /** What a path leads to in the end. Records the symlinks on the way. */
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

  /** The real path of a folder. */
  #folder(path: string): string | undefined {
    if (this.#folders.has(path)) return this.#folders.get(path);
    if (this.#depth >= MAX_DEPTH) return undefined;
    this.#folders.set(path, undefined); // For whoever comes here again by a loop of symlinks.
    this.#depth++;
    const found = this.#resolve(path);
    this.#depth--;
    const folder = found?.info.kind === "directory" ? found.path : undefined;
    this.#folders.set(path, folder);
    return folder;
  }

  /** @returns what it leads to, absolute; undefined if it cannot be read */
  #recordSymlink(path: string, info: RawInfo): string | undefined {
    const target = this.#entries.get(path)?.target ?? info.target!;
    const lead = resolve(dirname(path), target);
    const shown = this.#shown(lead);
    this.#record(path, info, shown === lead ? target : shown);
    return shown;
  }

  /** The name under which the developer has what is at a path, if that lies in a repository that is elsewhere here. */
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
      // Another link would be another answer.
      this.#options.looks.look(this.#options.storage + repository.slice(this.#options.outputBase.length));
    }
    return this.#moved;
  }

  #record(path: string, info: RawInfo, target?: string): void {
    const { kind } = info;
    // Neither is a socket an output, nor does its name stand for one.
    if (kind === "other" || this.#entries.has(path)) return;
    if (this.#entries.size >= this.#options.limit) return void (this.#full = true);
    if ((isRaw(path) || target !== undefined && isRaw(target)) && ++this.#rawNames > MAX_RAW_NAMES) return;
    const here = this.#here(path);
    const isElsewhere = here !== this.#options.storage + path.slice(this.#options.outputBase.length);
    this.#entries.set(path, { ...found(path, kind, info, target), ...isElsewhere && { here } });
  }

  /** Whether to look there at all. */
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
    // "name target"; from 7.4 on, after a space, with escapes in both.
    const unescape = { "\\s": " ", "\\n": "\n", "\\b": "\\" } as Record<string, string>;
    const text = new TextDecoder().decode(readFile(this.#options.files, this.#here(path), MAX_MANIFEST_BYTES));
    // Line by line: the session can write millions of them, and a list of those is many times as large as the file.
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

/** An entry of what was looked at. */
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
