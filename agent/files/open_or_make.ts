import { basename, dirname } from "node:path";
import { isGone } from "../../proto/tree/files.ts";
import { Beneath } from "./beneath.ts";

/**
 * Opens a folder at a path that programs of a session can change: what is missing of it is made beneath the deepest folder
 * that is there, which `check` has seen as it was opened. Throws what `check` throws, and what the disk says.
 *
 * @param path Absolute.
 * @param make Whether to make what is missing.
 * @param check Throws an error that says why nothing may be made there.
 * @returns the folder; undefined: it is not there, and shall not be made
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

/** Opens a folder; undefined if there is none. */
export function openIfThere(folder: string): Beneath | undefined {
  try {
    return Beneath.open(folder);
  } catch (e) {
    if (isGone(e)) return undefined;
    throw e;
  }
}
