/** Small questions about this program's own files. What cannot be looked at is not there. */

/** Whether something is at a path, also a symlink that leads nowhere. */
export function exists(path: string): boolean {
  return lookAt(Deno.lstatSync, path) !== undefined;
}

/** Whether a path leads to a file. */
export function isFile(path: string): boolean {
  return lookAt(Deno.statSync, path)?.isFile ?? false;
}

/** Whether a path leads to a folder. */
export function isFolder(path: string): boolean {
  return lookAt(Deno.statSync, path)?.isDirectory ?? false;
}

function lookAt(look: (path: string) => Deno.FileInfo, path: string): Deno.FileInfo | undefined {
  try {
    return look(path);
  } catch {
    return undefined;
  }
}
