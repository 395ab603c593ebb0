import { randomBytes } from "node:crypto";
import { localFiles } from "../../proto/tree/local_files.ts";
import { lookAt } from "./output_folders.ts";

/** Moves a file over another, also from another file system, completely or not at all. */
export function replaceFile(from: string, to: string): void {
  try {
    Deno.renameSync(from, to);
    return;
  } catch (e) {
    if ((e as { code?: string }).code !== "EXDEV") throw e;
  }
  const beside = `${to}.rbs-${randomBytes(6).toString("hex")}`;
  try {
    const { mtime } = Deno.lstatSync(from);
    localFiles.copy(from, beside);
    if (mtime) Deno.utimeSync(beside, mtime, mtime);
    Deno.renameSync(beside, to);
    Deno.removeSync(from);
  } catch (e) {
    if (lookAt(beside)) Deno.removeSync(beside);
    throw e;
  }
}
