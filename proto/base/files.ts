/** Questions about this program's own files. A path that cannot be examined counts as missing. */

/** Whether a path exists, including dangling symlinks. */
export function exists(path: string): boolean {
  return lookAt(Deno.lstatSync, path) !== undefined;
}

/** Whether a path leads to a file. */
export function isFile(path: string): boolean {
  return lookAt(Deno.statSync, path)?.isFile ?? false;
}

/** Whether a path leads to a directory. */
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
