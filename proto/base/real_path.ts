import { dirname, join, resolve } from "node:path";

/** As many symlinks as Linux follows in one path. */
const SYMLINKS_MAX = 40;

/**
 * Where a path leads, although it may not be there yet: the symlinks of what is there are followed, also of one whose
 * target is missing; the rest stays as it is. Throws what Deno throws when it may not look.
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
