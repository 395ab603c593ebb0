import { dirname, join, resolve } from "node:path";

/** Maximum number of symlinks that Linux follows in a path. */
const SYMLINKS_MAX = 40;

/**
 * The real path of a path that may not exist yet: existing symlinks are followed, including dangling ones; the rest is
 * kept. Throws Deno's errors if it may not read something.
 *
 * @param path Absolute.
 */
export function realPath(path: string): string {
  return follow(path, { left: SYMLINKS_MAX });
}

function follow(path: string, links: { left: number }): string {
  try {
    return Deno.realPathSync(path);
  } catch (e) {
    if (path === "/" || !isMissing(e)) throw e;
  }
  const folder = follow(dirname(path), links);
  const here = join(folder, path.slice(path.lastIndexOf("/") + 1));
  const target = linkTarget(here);
  if (target === undefined) return here;
  if (links.left-- === 0) throw new RangeError(`too many symlinks at ${path}`);
  return follow(resolve(folder, target), links);
}

function isMissing(e: unknown): boolean {
  return e instanceof Deno.errors.NotFound || e instanceof Deno.errors.NotADirectory;
}

function linkTarget(path: string): string | undefined {
  try {
    return Deno.lstatSync(path).isSymlink ? Deno.readLinkSync(path) : undefined;
  } catch (e) {
    if (isMissing(e)) return undefined;
    throw e;
  }
}
