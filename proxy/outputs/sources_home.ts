/**
 * Copies sources that a command has written at the agent into the developer's workspace. The agent names them, so each
 * is checked:
 *
 *     may the command write it?                        else the agent is refused
 *     is the file here as the agent had it before?     else the developer's edit stays; checked again at the end
 *     are all parents directories, and no symlinks?    else a warning says why
 *     does a symlink lead to where the command writes, or to external repositories?  the next sync would follow others
 *     is it a regular file where the command writes a single file, and no symlink where it has a folder?
 */
import { dirname, resolve } from "node:path";
import { sentence } from "../../proto/base/errors.ts";
import type { Entry, EntryKind } from "../../proto/tree/entry.ts";
import { type AllowedPathsOptions, shown } from "./allowed_paths.ts";
import { lookAt } from "./output_folders.ts";
import { replaceFile } from "./replace_file.ts";
import { isAtOrIn } from "../../proto/base/absolute_path.ts";

/** Number of files that a warning names. */
const NAMED_FILES = 3;

/** Where a command may write. Absolute paths in the workspace. */
export interface SourcePlaces {
  files: Iterable<string>;
  folders: readonly string[];
}

/** Copies the sources of one command. */
export class SourcesHome {
  readonly #options: Pick<AllowedPathsOptions, "workspace" | "outputBase">;
  readonly #files: ReadonlySet<string>;
  readonly #folders: readonly string[];
  readonly #asSent: (path: string) => boolean;
  readonly #edited: string[] = [];
  readonly #obstacles: string[] = [];

  /** @param asSent Whether an absolute path is in the state that the agent had before the command. */
  constructor(
    options: Pick<AllowedPathsOptions, "workspace" | "outputBase">,
    { files, folders }: SourcePlaces,
    asSent: (path: string) => boolean,
  ) {
    this.#options = options;
    this.#files = new Set(files);
    this.#folders = folders;
    this.#asSent = asSent;
  }

  /** Whether the command may write a file or directory at this path. */
  allows(path: string): boolean {
    if (resolve(path) !== path || !isAtOrIn(path, this.#options.workspace)) return false;
    // Git would execute what is written there.
    if (/\/\.git(\/|$)/i.test(path)) return false;
    return this.#files.has(path) || this.#folders.some((folder) => isAtOrIn(path, folder));
  }

  /**
   * Whether an entry has to be put in place; records why not. For a file, the caller has found that its content
   * differs.
   */
  wants({ path, kind, target }: Entry): boolean {
    const there = lookAt(path);
    if (kind === "directory" && there?.kind === "directory") return false;
    if (kind === "symlink" && there?.target === target) return false;
    const obstacle = this.#wayTo(path, false) ??
      (there?.kind === "directory" ? "it is a folder here" : undefined) ??
      (kind === "file" ? undefined : this.#isOtherKind(path, kind)) ??
      (kind === "symlink" ? this.#leadsAway(path, target!) : undefined);
    if (obstacle !== undefined) this.#obstacles.push(`${shown(path)} was not copied back: ${obstacle}.`);
    else if (!this.#asSent(path)) this.#edited.push(path);
    else return true;
    return false;
  }

  /**
   * Puts an entry in place, unless the developer has edited the path since {@link wants}.
   *
   * @param from Absolute path of a file's content, which is moved.
   */
  place({ path, kind, target, mode }: Entry, from?: string): void {
    try {
      // Fetching the content may have taken minutes.
      if (!this.#asSent(path)) {
        this.#edited.push(path);
        if (from !== undefined) Deno.removeSync(from);
        return;
      }
      const obstacle = this.#wayTo(path, true);
      if (obstacle !== undefined) throw new Error(obstacle);
      if (kind === "directory") return void Deno.mkdirSync(path);
      if (kind === "file") {
        const before = lookAt(path);
        Deno.chmodSync(from!, mode | (before?.kind === "file" ? before.mode & 0o777 : 0));
        return replaceFile(from!, path);
      }
      if (lookAt(path)) Deno.removeSync(path);
      Deno.symlinkSync(target!, path);
    } catch (e) {
      this.#obstacles.push(`${shown(path)} was not copied back: ${sentence(e).replace(/\.$/, "")}.`);
    }
  }

  /** Removes what the command has removed. @param paths Must be allowed by {@link allows}. */
  remove(paths: readonly string[]): void {
    // The contents of a directory go first.
    for (const path of [...paths].sort().reverse()) {
      const there = lookAt(path);
      if (!there || this.#wayTo(path, false) !== undefined) continue;
      try {
        // A directory that is not empty is the developer's.
        if (there.kind === "directory") Deno.removeSync(path);
        else if (this.#asSent(path)) Deno.removeSync(path);
        else this.#edited.push(path);
      } catch {
        // It stays, and is sent to the agent again.
      }
    }
  }

  /** Sentences about what was not copied. */
  get warnings(): string[] {
    const named = this.#edited.slice(0, NAMED_FILES).map(shown).join(", ");
    const more = this.#edited.length - NAMED_FILES;
    const edited = this.#edited.length === 0 ? [] : [
      `The command has changed ${named}${more > 0 ? ` and ${more.toLocaleString("en-US")} more` : ""} on the build ` +
      "server's machine, and so have you here meanwhile: yours stays, run the command again if you want its changes.",
    ];
    const others = this.#obstacles.length - NAMED_FILES;
    const rest = others > 0 ? [`${others.toLocaleString("en-US")} more sources were not copied back.`] : [];
    return [...edited, ...this.#obstacles.slice(0, NAMED_FILES), ...rest];
  }

  /** Why nothing can be written at a path, without a full stop. @param make Make missing parents. */
  #wayTo(path: string, make: boolean): string | undefined {
    const { workspace } = this.#options;
    const missing: string[] = [];
    for (let folder = dirname(path); folder !== workspace; folder = dirname(folder)) {
      const info = lookAt(folder);
      if (info && info.kind !== "directory") return `${shown(folder)} is no folder`;
      if (!info) missing.unshift(folder);
    }
    if (make) { for (const folder of missing) Deno.mkdirSync(folder); }
    return undefined;
  }

  /** Why something other than a file may not be here: Bazel would read or write what it leads to. */
  #isOtherKind(path: string, kind: EntryKind): string | undefined {
    const isLink = kind === "symlink";
    if (this.#files.has(path)) {
      return `the command writes a regular file there, and this is a ${isLink ? "symlink" : "folder"}`;
    }
    if (isLink && this.#folders.includes(path)) return "the command writes into a folder there, and this is a symlink";
    return undefined;
  }

  /** Why a symlink may not be here: it leads, or may lead, to a place where the command does not write. */
  #leadsAway(path: string, target: string): string | undefined {
    const { outputBase } = this.#options;
    const lead = resolve(dirname(path), target);
    const isPlain = !/(^|\/)\.\.(\/|$)/.test(target.replace(/^(\.\.\/)*(\.\.$)?/, ""));
    const isInside = isPlain && this.#folders.some((folder) => isAtOrIn(path, folder) && isAtOrIn(lead, folder));
    if (isInside || isPlain && isAtOrIn(lead, `${outputBase}/external`)) return undefined;
    return `it is a symlink that leads to ${shown(target)}`;
  }
}
