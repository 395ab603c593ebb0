/**
 * Finds what a command uses outside of the workspace, so that it can be synced, read-only, to the same absolute path.
 *
 * Not looked for are rc files, which the client itself reads on the laptop and sends: the system's, the workspace's,
 * the user's and `--bazelrc`'s, with what they import, also by `%workspace%` (4.2.3 `option_processor.cc`; 2.1 and 7.7
 * send the same). Nor what the server writes for itself and finds again on its own machine: `--repository_cache`,
 * `--disk_cache`, `--sandbox_base`, `--test_tmpdir`, `--vendor_dir`.
 *
 * What cannot be synced gets a sentence:
 * - a path in a system directory (`/usr`, `/etc`, …), which belongs to the agent's machine;
 * - a directory that is far too large for a build;
 * - what is hidden in the home directory, unless an option names it;
 * - a credential helper, which finds neither its owner's home directory nor environment.
 *
 * What does not exist gets no sentence, since Bazel reports it.
 */
import type { Buffer } from "node:buffer";
import { basename, dirname, join } from "node:path";
import { systemFolderOf } from "../../proto/base/system_folders.ts";
import { HOME_FILES } from "./client_env.ts";
import {
  allValues,
  clientVariable,
  fileName,
  isOn,
  type Option,
  parseRunArguments,
  resolvePath,
} from "./run_arguments.ts";
import { type InOption, optionsFor, pathOption } from "./path_options.ts";
import { readStarlark } from "./starlark_paths.ts";
import { isAtOrIn } from "../../proto/base/absolute_path.ts";

/** A directory or file outside of the workspace. */
export interface OutsideRoot {
  /** Absolute path. */
  path: string;
  /** What names it: "--override_repository", "local_repository in WORKSPACE". */
  why: string;
  /** The workspace and the output base, if they are in it: they do not belong to it. Absolute paths. */
  leaveOut: string[];
}

/** The roots of a command, and warnings for the developer. */
export interface OutsideRoots {
  /** None is in another, in the workspace or in the output base. */
  roots: OutsideRoot[];
  /** Sentences to show once. */
  warnings: string[];
}

/** The parts of the developer's file system that are used here. */
export interface Files {
  /** The text of a file; undefined if it is not a readable file. */
  readFile(path: string): string | undefined;
  /** Follows symlinks. */
  exists(path: string): boolean;
  /** The path without symlinks; undefined if it does not exist. */
  realPath(path: string): string | undefined;
}

/** Where a command is run. Absolute paths. */
export interface Place {
  workspace: string;
  outputBase: string;
  /** What is in it is the same on the agent's machine. */
  installBase?: string;
}

/** Options of the form PATH or HOST=PATH. */
const HELPERS = ["credential_helper", "experimental_credential_helper"];

/** Maximum number of files with rules that are read. */
const MAX_STARLARK_FILES = 200;

/** Finds what a command uses outside of its workspace. Never throws. */
export function findOutsideRoots(options: Place & Files & { args: readonly Buffer[]; cwd: string }): OutsideRoots {
  const { args, cwd, workspace } = options;
  const home = clientVariable(args, "HOME");
  const finder = new Finder(options, home && fileName(home));
  const values = [...optionsFor("in"), ...HELPERS, "package_path"];
  const read = parseRunArguments(args, values, ["google_default_credentials"]);
  const resolve = (value: string, base: string) => resolvePath(fileName(value), base, workspace, finder.home);

  for (const { name, row: { base, path: pathIn, secret }, value } of counting(read.options)) {
    const path = pathIn ? pathIn(value) : value;
    if (name === "workspace_status_command") {
      // The program itself may be in the workspace; it is still examined as a stamping script.
      const [word] = value.trim().split(/\s+/);
      stampingScript(finder, resolve(word.replaceAll(/["']/g, ""), workspace), workspace);
    }
    if (!path) continue;
    const added = finder.add(resolve(path, base === "cwd" ? cwd : workspace), `--${name}`);
    if (added && secret) {
      finder.warn(
        `--${name}=${added} is copied to the build server's machine, because the server there makes the connection.`,
      );
    }
  }
  const packagePath = allValues(read.options, "package_path").at(-1);
  for (const entry of packagePath?.split(":") ?? []) if (entry) finder.add(resolve(entry, cwd), "--package_path");
  credentialHelpers(finder, read.options, args, (path) => resolve(path, workspace));
  if (isOn(read.options, "google_default_credentials")) {
    finder.warn(
      "--google_default_credentials are those of the build server's machine: name yours with --google_credentials.",
    );
  }
  // The operands of `analyze-profile` are files.
  if (read.command === "analyze-profile") {
    for (const name of read.residue) finder.add(resolve(name, cwd), "analyze-profile");
  }
  homeFiles(finder, args);
  starlarkFiles(finder, options);
  return finder.found();
}

/** Warns if a stamping script seems to run git, since .git is not synced. */
function stampingScript(finder: Finder, script: string, workspace: string): void {
  const { files } = finder;
  if (basename(script) !== "git" && !/\bgit\b/.test(files.readFile(script) ?? "")) return;
  if (!files.exists(join(workspace, ".git"))) return;
  if (/^!\/?\.git\/?\s*$/m.test(files.readFile(join(workspace, ".rbsignore")) ?? "")) return;
  finder.warn(
    `--workspace_status_command=${script} runs git on the build server's machine, where .git is not: ` +
      "write `!.git` into .rbsignore to have it synced.",
  );
}

/** Adds what RBS_HOME_FILES ("NAME:NAME") names in the home directory. */
function homeFiles(finder: Finder, args: readonly Buffer[]): void {
  const { home } = finder;
  const names = (clientVariable(args, HOME_FILES) ?? "").split(":").filter((name) => name !== "");
  for (const name of home ? names : []) {
    const path = resolvePath(fileName(name), home!, home!, home);
    if (path === home || !isAtOrIn(path, home!)) {
      finder.warn(`${HOME_FILES} names ${fileName(name)}, which is not in your home folder: name it by an option.`);
    } else if (finder.add(path, HOME_FILES)) {
      finder.warn(
        `${path} (${HOME_FILES}) is copied to the build server's machine: your builds, and whoever administers that machine, can read it there.`,
      );
    }
  }
}

/** A symlink of the workspace. */
export interface SourceLink {
  /** Absolute. */
  path: string;
  /** The target, unresolved. */
  target: string;
}

/** Maximum content of a directory, at all depths. */
export interface FolderLimit {
  /** Files, directories and links. */
  entries: number;
  bytes: number;
}

/** The targets of the workspace's symlinks. */
export interface LinkedRoots extends OutsideRoots {
  /** Targets that do not exist. Absolute paths. */
  missing: string[];
}

/**
 * The directories and files outside of the workspace that symlinks lead to: from the workspace, from other roots, and
 * from the targets, to any depth. The links are synced as links, and Bazel follows them, so their targets must exist at
 * the agent too. Links into system directories lead to the agent machine's files; links into the output base are
 * convenience symlinks. A link does not clearly ask for its target: what exceeds the limit is not sent, and a sentence
 * says how to ask for it.
 *
 * @param from The workspace, and other trees. Absolute.
 * @param options.links The links in a tree; none if the tree was not looked at yet.
 * @param options.holdsMore Whether a path holds more than a limit.
 * @param options.readLink The target of a link that does not lead to a directory; undefined if there is no such link.
 * @param options.limit @default 20,000 entries, 1 GB
 */
export async function linkedRoots(
  from: readonly string[],
  options: Place & Files & {
    home?: string;
    links(root: string): Iterable<SourceLink>;
    holdsMore(path: string, limit: FolderLimit): Promise<boolean>;
    readLink(path: string): string | undefined;
    limit?: FolderLimit;
  },
): Promise<LinkedRoots> {
  const { workspace, outputBase, limit = { entries: 20_000, bytes: 1e9 } } = options;
  const finder = new Finder(options, options.home);
  const missing = new Set<string>();
  const seen = new Set<string>();
  const trees = new Set(from);
  const follow = async (link: SourceLink) => {
    const { path } = link;
    let lead: string | undefined = leadOf(link);
    // Convenience symlinks of another workspace in a directory of this one.
    if (/\/bazel-[^/]+$/.test(path) && link.target.includes("/execroot/")) return;
    // A file may be a link again, whose target is needed as well.
    while (lead !== undefined && !seen.has(lead)) {
      if (isAtOrIn(lead, workspace) || isAtOrIn(lead, outputBase)) break;
      // There are many such links (in a Python environment, for example), and they mean the machine that they are on.
      if (systemFolderOf(lead)) break;
      seen.add(lead);
      const why = `the link ${path}`;
      if (!options.exists(lead)) missing.add(lead);
      if (!finder.canGo(lead, why, false)) break;
      if (finder.count >= MAX_LINKED) {
        tooMany ??= `${lead}, which ${path} leads to, is not synced, since symlinks lead to more than ` +
          `${MAX_LINKED.toLocaleString("en-US")} places: name a folder that holds them in a local_repository.`;
        break;
      }
      if (await options.holdsMore(lead, limit)) {
        finder.warn(
          `${lead}, which ${path} leads to, is not synced, since it holds more than ` +
            `${limit.entries.toLocaleString("en-US")} files or ${limit.bytes / 1e6} MB: ` +
            `name it in a local_repository if the build needs it, or the link in .rbsignore if not.`,
        );
        break;
      }
      finder.add(lead, why, false);
      trees.add(lead);
      // A worktree's git directory names the one that it shares with others.
      const common: string | undefined = path.endsWith("/.git")
        ? options.readFile(`${lead}/commondir`)?.trim() || undefined
        : undefined;
      const target: string | undefined = common ?? options.readLink(lead);
      lead = target === undefined ? undefined : leadOf({ path: common ? `${lead}/commondir` : lead, target });
    }
  };
  let tooMany: string | undefined;
  // The set grows while it is iterated.
  for (const tree of trees) for (const link of options.links(tree)) await follow(link);
  if (tooMany) finder.warn(tooMany);
  return { ...finder.found(), missing: [...missing] };
}

/** The target of a link. Absolute path. */
function leadOf({ path, target }: SourceLink): string {
  return join(target.startsWith("/") ? "/" : dirname(path), target).replace(/(?<=.)\/$/, "");
}

/** The values that count: all, the last, or the last for each name. */
function counting(options: readonly Option[]): { name: string; row: InOption; value: string }[] {
  const found = new Map<string, { name: string; row: InOption; value: string }>();
  for (const [index, { name, value }] of options.entries()) {
    const row = pathOption(name, "in");
    if (!row) continue;
    const equals = value.indexOf("=");
    const key = row.last ? name : `${name} ${row.named ? value.slice(0, equals) : index}`;
    found.set(key, { name, row, value: row.named ? value.slice(equals + 1) : value });
  }
  return [...found.values()];
}

/**
 * Adds the programs of `--credential_helper`. The server runs them: a program named by a path or found on the client's
 * PATH is sent.
 */
function credentialHelpers(
  finder: Finder,
  options: readonly Option[],
  args: readonly Buffer[],
  resolve: (value: string) => string,
): void {
  for (const { name, value, text } of options) {
    if (!HELPERS.includes(name)) continue;
    const helper = value.slice(value.indexOf("=") + 1);
    if (!helper) continue;
    finder.warn(
      `${fileName(text)} runs on the build server's machine, without your home folder, and with no variable that ` +
        "neither --action_env, --repo_env nor RBS_CLIENT_ENV names.",
    );
    const folders = (clientVariable(args, "PATH") ?? "").split(":").filter((folder) => folder.startsWith("/"));
    const path = helper.includes("/")
      ? resolve(helper)
      : folders.map((folder) => resolve(`${folder}/${helper}`)).find((path) => finder.files.exists(path));
    if (path) finder.add(path, `--${name}`);
  }
}

/** Adds what WORKSPACE and MODULE.bazel files name, and what the workspace's files that they load name. */
function starlarkFiles(finder: Finder, { workspace, readFile }: { workspace: string } & Files): void {
  const files = ["WORKSPACE", "WORKSPACE.bazel", "WORKSPACE.bzlmod", "MODULE.bazel"];
  const seen = new Set(files);
  for (const file of files) {
    const text = readFile(join(workspace, file));
    if (text === undefined) continue;
    const { paths, loads } = readStarlark(text);
    for (const { path, rule } of paths) {
      finder.add(resolvePath(path, workspace, workspace), `${rule} in ${file}`, false);
    }
    for (const label of loads) {
      const loaded = fileOf(label, file);
      if (loaded === undefined || seen.has(loaded) || seen.size >= MAX_STARLARK_FILES) continue;
      seen.add(loaded);
      files.push(loaded);
    }
  }
}

/** The file of a label, relative to the workspace; undefined if it is in another repository. */
function fileOf(label: string, from: string): string | undefined {
  const [, repository, folder, name] = /^(@@?[^/]*)?(?:\/\/([^:]*))?:?([^]*)$/.exec(label) ?? [];
  if (repository !== undefined && !/^@@?$/.test(repository)) return undefined;
  if (name === undefined || /(^|\/)\.\.(\/|$)/.test(label)) return undefined;
  if (folder === undefined) return join(dirname(from), name);
  return name ? join(folder, name) : join(folder, folder.split("/").at(-1) ?? "");
}

/** Collects roots and warnings. */
class Finder {
  readonly #place: Place;
  readonly #roots = new Map<string, OutsideRoot>();
  readonly #system = new Map<string, string>();
  readonly #warnings = new Set<string>();

  constructor(readonly files: Place & Files, readonly home: string | undefined) {
    this.#place = files;
  }

  /** Number of roots. */
  get count(): number {
    return this.#roots.size;
  }

  warn(sentence: string): void {
    this.#warnings.add(sentence);
  }

  /**
   * Whether a path is outside of the workspace, exists and may be synced. Warns if it should be synced but cannot.
   *
   * @param asked Whether an option names it, rather than a file or link of the workspace, which may come from anyone.
   */
  canGo(path: string, why: string, asked: boolean): boolean {
    const { workspace, outputBase, installBase } = this.#place;
    const own = [workspace, outputBase, ...installBase ? [installBase] : []];
    if (own.some((folder) => isAtOrIn(path, folder)) || !this.files.exists(path)) return false;
    if (systemFolderOf(path)) {
      this.#system.set(path, why);
      return false;
    }
    const real = this.files.realPath(path) ?? path;
    const home = this.home && (this.files.realPath(this.home) ?? this.home);
    if (TOO_MUCH.includes(real) || home && isAtOrIn(home, real)) {
      this.warn(`${path} (${why}) is not synced, since it holds far more than a build needs: name a folder in it.`);
      return false;
    }
    // Keys and tokens are there: ~/.ssh, ~/.aws, ~/.config.
    if (!asked && home && real.startsWith(`${home}/.`)) {
      this.warn(
        `${path} (${why}) is not synced, since it is hidden in your home folder: name it in an option to send it.`,
      );
      return false;
    }
    return true;
  }

  /** Adds a root if it may be synced. @returns its path if so */
  add(path: string, why: string, asked = true): string | undefined {
    if (!this.canGo(path, why, asked)) return undefined;
    const { workspace, outputBase } = this.#place;
    const leaveOut = [workspace, outputBase].filter((folder) => isAtOrIn(folder, path));
    if (!this.#roots.has(path)) this.#roots.set(path, { path, why, leaveOut });
    return path;
  }

  /** Whether a parent is a root. */
  #isInRoot(path: string): boolean {
    for (let slash = path.lastIndexOf("/"); slash > 0; slash = path.lastIndexOf("/", slash - 1)) {
      if (this.#roots.has(path.slice(0, slash))) return true;
    }
    return false;
  }

  found(): OutsideRoots {
    const roots = [...this.#roots.values()];
    const warnings = [...this.#warnings];
    const [first, ...others] = this.#system;
    if (first) {
      const more = others.length > 0 ? ` and ${others.length} more` : "";
      warnings.push(
        `${first[0]} (${
          first[1]
        })${more}: what lies in a system folder is not synced, and must be the same on the build ` +
          "server's machine.",
      );
    }
    return {
      roots: roots.filter(({ path }) => !this.#isInRoot(path)),
      warnings,
    };
  }
}

/** Maximum number of link targets that are synced: an agent accepts 10,000 roots. */
const MAX_LINKED = 5_000;

/** Directories that are never synced as a whole. */
const TOO_MUCH = ["/", "/home", "/Users", "/root", "/tmp", "/mnt", "/media"];
