import { basename, dirname } from "node:path";
import { isGone } from "../../proto/tree/files.ts";
import { Beneath } from "./beneath.ts";

/**
 * Opens a directory at a path that the session's programs can change. What is missing is made beneath the deepest
 * existing parent, which `check` has approved in its opened state. Throws what `check` throws, and disk errors.
 *
 * @param path Absolute.
 * @param make Whether to make what is missing.
 * @param check Throws an error that says why nothing may be made there.
 * @returns the directory; undefined if it does not exist and `make` is false
 */
export function openOrMake(path: string, make: boolean, check: (folder: Beneath) => void): Beneath | undefined {
  const missing: string[] = [];
  for (let folder = path;; folder = dirname(folder)) {
    const there = openIfThere(folder);
    if (!there) {
      if (!make) return undefined;
      missing.unshift(basename(folder));
      continue;
    }
    try {
      check(there);
      if (missing.length === 0) return there;
      there.makeWay(missing.join("/"));
      using above = there;
      return above.beneath(missing.join("/"));
    } catch (e) {
      there[Symbol.dispose]();
      throw e;
    }
  }
}

/** Opens a directory; undefined if it does not exist. */
export function openIfThere(folder: string): Beneath | undefined {
  try {
    return Beneath.open(folder);
  } catch (e) {
    if (isGone(e)) return undefined;
    throw e;
  }
}
