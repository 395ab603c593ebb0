/**
 * External repositories as Bazel 8.3 and later keep them, with `--repo_contents_cache` on by default: what was fetched
 * lies outside of the output base, and is only linked to (bazelbuild/bazel#25938, #29649; `LocalRepoContentsCache.java`).
 * One that has symlinks into others stays where it was made, and leads into them by relative paths (since 9.0.1,
 * bazelbuild/bazel#28582).
 *
 *     <output base>/external/far+            ->  <output_user_root>/cache/repos/v1/contents/<hash>/<uuid>
 *     <output base>/external/near+/data.txt  ->  ../far+/data.txt
 */
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";

/** Where repositories come from and go to. Absolute paths. */
export interface RepositoryPlaces {
  workspace: string;
  outputBase: string;
  outputUserRoot: string;
}

/** In a repository's source: its symlinks into others, `NAME REPOSITORY FILE` in each line. */
const LINKS = "LINKS";

/** A module's repository: its canonical name, since 8.0. */
export function canonicalName(repository: string): string {
  return `${repository}+`;
}

/** The cache's folder. */
export function repoContentsCache(outputUserRoot: string): string {
  return join(outputUserRoot, "cache/repos/v1/contents");
}

/**
 * Has a repository that MODULE.bazel names. `registry/NAME` of the workspace stands for what a module registry would send.
 *
 * @returns its path in `external`
 */
export function fetchRepository(repository: string, places: RepositoryPlaces): string {
  const { workspace, outputBase } = places;
  const module = Deno.readTextFileSync(join(workspace, "MODULE.bazel"));
  if (!module.includes(`bazel_dep(name = "${repository}"`)) throw new Error(`no such module: ${repository}`);
  const source = join(workspace, "registry", repository), name = canonicalName(repository);
  const path = join(outputBase, "external", name);
  const links = read(join(source, LINKS));
  const hash = createHash("sha256").update(contents(source).join("\0")).digest("hex");
  Deno.mkdirSync(dirname(path), { recursive: true });
  if (links === undefined) relink(cached(source, hash, places), path);
  else {
    copyTree(source, path);
    for (const [link, other, file] of links.trim().split("\n").map((line) => line.split(" "))) {
      fetchRepository(other, places);
      relink(join("..", canonicalName(other), file), join(path, link));
    }
  }
  Deno.writeTextFileSync(join(outputBase, "external", `@${name}.marker`), hash);
  return path;
}

/** A repository's folder in the cache: as a former server, or another one, has made it, or made now. */
function cached(source: string, hash: string, { outputUserRoot }: RepositoryPlaces): string {
  const place = join(repoContentsCache(outputUserRoot), hash);
  const known = existing(place);
  if (known) return known;
  const folder = join(place, crypto.randomUUID());
  copyTree(source, folder);
  Deno.writeTextFileSync(`${folder}.recorded_inputs`, "");
  return folder;
}

/** Makes or replaces a symlink. */
export function relink(target: string, path: string): void {
  try {
    if (Deno.readLinkSync(path) === target) return;
  } catch { /* it is none yet */ }
  try {
    Deno.removeSync(path, { recursive: true });
  } catch { /* nothing is there */ }
  Deno.symlinkSync(target, path);
}

function existing(place: string): string | undefined {
  try {
    const folder = [...Deno.readDirSync(place)].find(({ isDirectory }) => isDirectory);
    return folder && join(place, folder.name);
  } catch {
    return undefined;
  }
}

function read(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return undefined;
  }
}

function contents(folder: string): string[] {
  return [...Deno.readDirSync(folder)].toSorted((a, b) => a.name < b.name ? -1 : 1).flatMap(({ name, isDirectory }) => {
    const path = join(folder, name);
    return isDirectory ? [name, ...contents(path)] : [name, Deno.readTextFileSync(path)];
  });
}

function copyTree(from: string, to: string): void {
  Deno.mkdirSync(to, { recursive: true });
  for (const { name, isDirectory } of Deno.readDirSync(from)) {
    if (isDirectory) copyTree(join(from, name), join(to, name));
    else if (name !== LINKS) Deno.copyFileSync(join(from, name), join(to, name));
  }
}
