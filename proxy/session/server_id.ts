import { realPath } from "../../proto/base/real_path.ts";
import { hexDigest } from "./machine_id.ts";

/**
 * The ServerId of a Bazel server, which with the user and the workspace is a session's key: 16 lowercase hex digits. The
 * first 8 stand for the machine, and all for the machine and the output base, as a Bazel server is one of an output base.
 *
 * @param machine See machine_id.ts.
 * @param outputBase Absolute; need not be there yet.
 */
export function serverId(machine: string, outputBase: string): string {
  return hexDigest(machine).slice(0, 8) + hexDigest(machine, leadsTo(outputBase)).slice(0, 8);
}

/** The client resolves symlinks before it names its output base to a server, and who reads rc files does not. */
function leadsTo(outputBase: string): string {
  try {
    return realPath(outputBase);
  } catch {
    return outputBase;
  }
}
