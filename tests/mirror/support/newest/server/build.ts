/** Builds targets as Bazel lays them out: the execroot, `bazel-out`, runfiles, and symlinks in the workspace. */
import { basename, dirname, join } from "node:path";
import type { TargetEvent } from "./build_events.ts";
import { canonicalName, fetchRepository, relink, type RepositoryPlaces } from "./repositories.ts";
import { readRules, type Rule } from "./rules.ts";

/** Where everything is. Absolute paths. */
export interface Places extends RepositoryPlaces {
  execRoot: string;
  bin: string;
}

/** The places of a server. The workspace's repository is called `_main` since 7.1. */
export function placesOf(places: RepositoryPlaces): Places {
  const execRoot = join(places.outputBase, "execroot/_main");
  return { ...places, execRoot, bin: join(execRoot, "bazel-out/k8-fastbuild/bin") };
}

/** What was built of one target. */
export interface Built extends TargetEvent {
  rule?: Rule;
  /** What `run` executes: absolute. */
  executable?: string;
}

/** Who asks, and how an action is ended. */
export interface BuildOptions {
  cancelled: AbortSignal;
  print(text: string): void;
  environment: Record<string, string>;
}

/** A label's parts. */
interface Label {
  repository: string;
  package: string;
  name: string;
}

/** What a target needs, and how it was named. */
interface Input {
  label: Label;
  built: Built;
}

function readLabel(text: string, from?: Label): Label {
  const [, repository, pkg, name] = /^(?:@@?([\w.+~-]+))?(?:\/\/([^:]*))?:?(.*)$/.exec(text)!;
  const known = repository ?? from?.repository ?? "";
  const folder = pkg ?? from?.package ?? "";
  return { repository: known, package: folder, name: name || basename(folder) };
}

/** Prepares the execroot and the links in the workspace (`SymlinkForest.java`, `OutputDirectoryLinksUtils.java`). */
export function prepareWorkspace(places: Places): void {
  const { workspace, execRoot, bin } = places;
  // What modules were resolved to: written with each change of MODULE.bazel (`--lockfile_mode=update`).
  const lock = JSON.stringify({ lockFileVersion: 26, module: Deno.readTextFileSync(join(workspace, "MODULE.bazel")) });
  const lockFile = join(workspace, "MODULE.bazel.lock");
  if (!isText(lockFile, lock)) Deno.writeTextFileSync(lockFile, lock);
  Deno.mkdirSync(join(execRoot, "external"), { recursive: true });
  for (const folder of [bin, join(dirname(bin), "testlogs")]) Deno.mkdirSync(folder, { recursive: true });
  for (const { name } of Deno.readDirSync(workspace)) {
    if (!name.startsWith("bazel-") && name !== "external") relink(join(workspace, name), join(execRoot, name));
  }
  for (const [name, target] of Object.entries(convenienceSymlinks(places))) relink(target, join(workspace, name));
}

function convenienceSymlinks({ workspace, execRoot, bin }: Places): Record<string, string> {
  return {
    "bazel-bin": bin,
    "bazel-out": join(execRoot, "bazel-out"),
    "bazel-testlogs": join(dirname(bin), "testlogs"),
    [`bazel-${basename(workspace)}`]: execRoot,
  };
}

/** As `clean` does. */
export async function removeConvenienceSymlinks(places: Places): Promise<void> {
  for (const name of Object.keys(convenienceSymlinks(places))) {
    await Deno.remove(join(places.workspace, name)).catch(() => {});
  }
}

function isText(path: string, text: string): boolean {
  try {
    return Deno.readTextFileSync(path) === text;
  } catch {
    return false;
  }
}

/** Builds one target with what it needs. Throws for one that is not there. */
export async function buildTarget(text: string, places: Places, options: BuildOptions, from?: Label): Promise<Built> {
  const label = readLabel(text, from);
  const folder = sourceFolder(label, places);
  const rules = readRules(await Deno.readTextFile(join(folder, "BUILD")));
  const rule = rules.find(({ name }) => name === label.name) ??
    rules.find(({ attributes }) => attributes.outs?.includes(label.name));
  const shown = `${label.repository && `@@${canonicalName(label.repository)}`}//${label.package}:${label.name}`;
  const place = join(label.repository && `external/${canonicalName(label.repository)}`, label.package);
  const described = { label: shown, rule };
  if (!rule) {
    // A source file, as it is.
    const path = join(folder, label.name);
    await Deno.stat(path);
    return { ...described, success: true, files: [{ path, name: join(place, label.name) }] };
  }
  const { srcs = [], data = [] } = rule.attributes;
  const inputs = await Promise.all([...srcs, ...data].map(async (input): Promise<Input> => ({
    label: readLabel(input, label),
    built: await buildTarget(input, places, options, label),
  })));
  if (rule.kind === "genrule") return { ...described, ...await buildGenrule(rule, place, { inputs, places, options }) };
  if (rule.kind !== "sh_binary") throw new Error(`no such rule: ${rule.kind}`);
  return { ...described, success: true, ...makeBinary(join(place, label.name), { inputs, places }) };
}

async function buildGenrule(
  rule: Rule,
  place: string,
  { inputs, places, options }: { inputs: Input[]; places: Places; options: BuildOptions },
): Promise<Pick<Built, "success" | "files">> {
  const outs = rule.attributes.outs.map((out) => ({ path: join(places.bin, place, out), name: join(place, out) }));
  const success = inputs.every(({ built }) => built.success) &&
    await runGenrule(rule, outs, inputs.flatMap(({ built }) => built.files), places, options);
  return { success, files: success ? outs : [] };
}

/** A script's executable is a symlink to it. */
function makeBinary(
  name: string,
  { inputs, places }: { inputs: Input[]; places: Places },
): Pick<Built, "executable" | "files"> {
  const executable = join(places.bin, name);
  Deno.mkdirSync(dirname(executable), { recursive: true });
  relink(inputs[0].built.files[0].path, executable);
  makeRunfiles(executable, [
    { key: join("_main", name), path: executable },
    ...inputs.flatMap(({ label, built }) =>
      built.files.map(({ path }) => ({ key: runfilesKey(label, path), path: inExecRoot(label, path, places) }))
    ),
  ]);
  return { executable, files: [{ path: executable, name }] };
}

/** Where a package's sources are; fetches its repository. */
function sourceFolder(label: Label, places: Places): string {
  if (!label.repository) return join(places.workspace, label.package);
  const repository = fetchRepository(label.repository, places);
  relink(repository, join(places.execRoot, "external", canonicalName(label.repository)));
  return join(repository, label.package);
}

function runfilesKey(label: Label, path: string): string {
  const repository = label.repository ? canonicalName(label.repository) : "_main";
  return join(repository, label.package, basename(path));
}

/** Runfiles lead into the execroot, where external repositories are as well. */
function inExecRoot(label: Label, path: string, { execRoot }: Places): string {
  if (!label.repository || path.startsWith(execRoot)) return path;
  return join(execRoot, "external", canonicalName(label.repository), label.package, basename(path));
}

function makeRunfiles(executable: string, files: { key: string; path: string }[]): void {
  const folder = `${executable}.runfiles`;
  for (const { key, path } of files) {
    Deno.mkdirSync(dirname(join(folder, key)), { recursive: true });
    relink(path, join(folder, key));
  }
  const manifest = files.map(({ key, path }) => `${key} ${path}\n`).join("");
  Deno.writeTextFileSync(`${folder}_manifest`, manifest);
  relink(`${folder}_manifest`, join(folder, "MANIFEST"));
  Deno.writeTextFileSync(`${executable}.repo_mapping`, `,far,far+\n`);
  relink(`${executable}.repo_mapping`, join(folder, "_repo_mapping"));
}

/** Runs a genrule's command in the execroot; ends it with all that it has started when the command is cancelled. */
async function runGenrule(
  { attributes }: Rule,
  outs: { path: string }[],
  inputs: { path: string }[],
  { execRoot }: Places,
  { cancelled, print, environment }: BuildOptions,
): Promise<boolean> {
  for (const { path } of outs) {
    Deno.mkdirSync(dirname(path), { recursive: true });
    await Deno.remove(path).catch(() => {});
  }
  const words: Record<string, string> = {
    "$@": outs[0].path,
    "$<": inputs[0]?.path ?? "",
    "$$": "$",
    "$(SRCS)": inputs.map(({ path }) => path).join(" "),
    "$(OUTS)": outs.map(({ path }) => path).join(" "),
  };
  const script = attributes.cmd[0].replace(/\$(?:[@<$]|\([A-Z]+\))/g, (word) => words[word] ?? word);
  cancelled.throwIfAborted();
  const child = new Deno.Command("setsid", {
    args: ["bash", "-c", `set -e; ${script}`],
    cwd: execRoot,
    env: environment,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const end = () => void new Deno.Command("sh", { args: ["-c", `kill -KILL -${child.pid}`] }).outputSync();
  cancelled.addEventListener("abort", end);
  const { success, stderr } = await child.output();
  cancelled.removeEventListener("abort", end);
  cancelled.throwIfAborted();
  print(new TextDecoder().decode(stderr));
  return success;
}
