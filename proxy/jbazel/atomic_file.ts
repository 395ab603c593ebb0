import { randomBytes } from "node:crypto";
import { dirname, resolve } from "node:path";
import { RbsError, sentence } from "../../proto/base/errors.ts";

/** Follows symlinks to their final target, which need not exist. Absolute path. */
export function followLinks(path: string): string {
  let at = resolve(path);
  for (let i = 0; i < 40; i++) {
    try {
      at = resolve(dirname(at), Deno.readLinkSync(at));
    } catch {
      return at;
    }
  }
  throw new RbsError(`${path} is a loop of symbolic links: fix it.`, { culprit: "caller" });
}

/**
 * A text file's content; undefined if it does not exist. Throws an RbsError for a file that would not survive a
 * rewrite.
 */
export function readText(path: string): string | undefined {
  let bytes: Uint8Array;
  try {
    bytes = Deno.readFileSync(path);
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound) return undefined;
    throw new RbsError(`${path} cannot be read (${sentence(cause)}): make it readable.`, { cause });
  }
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new RbsError(
      `${path} is not UTF-8, so it is left alone: add the line by hand (see "jbazel setup --print").`,
      { cause },
    );
  }
}

/**
 * Replaces a file's content completely or not at all. Keeps its mode and, where permitted, its owner. If the path is a
 * symlink, its target is replaced.
 */
export function replaceText(path: string, text: string): void {
  const target = followLinks(path);
  const fresh = `${target}.rbs-${randomBytes(6).toString("hex")}`;
  try {
    const old = statOrUndefined(target);
    const file = Deno.openSync(fresh, { write: true, createNew: true });
    try {
      const bytes = new TextEncoder().encode(text);
      for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
      file.syncSync();
    } finally {
      file.close();
    }
    if (old) {
      if (old.mode !== null) Deno.chmodSync(fresh, old.mode & 0o7777);
      const made = Deno.statSync(fresh);
      if (old.uid !== made.uid || old.gid !== made.gid) {
        try {
          Deno.chownSync(fresh, old.uid, old.gid);
        } catch { /* only root may; otherwise the file now belongs to the user */ }
      }
    }
    Deno.renameSync(fresh, target);
  } catch (cause) {
    try {
      Deno.removeSync(fresh);
    } catch { /* it was never made */ }
    if (cause instanceof Deno.errors.NotCapable) {
      throw new RbsError(
        `${path} leads elsewhere, and nothing was changed: name the file itself, with --rc=${target}.`,
        {
          cause,
          culprit: "caller",
        },
      );
    }
    throw new RbsError(`${target} cannot be written (${sentence(cause)}): nothing was changed.`, { cause });
  }
}

/** Removes a file. If the path is a symlink, its target is removed. */
export function removeFile(path: string): void {
  try {
    Deno.removeSync(followLinks(path));
  } catch (cause) {
    throw new RbsError(`${path} cannot be removed (${sentence(cause)}): nothing was changed.`, { cause });
  }
}

function statOrUndefined(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.statSync(path);
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return undefined;
    throw e;
  }
}
