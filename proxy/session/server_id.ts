import { realPath } from "../../proto/base/real_path.ts";
import { hexDigest } from "./machine_id.ts";

/**
 * The ServerId of a Bazel server, which is part of a session's key, with the user and the workspace: 16 lowercase hex
 * digits. The first 8 depend on the machine, the rest on the machine and the output base, since a server belongs to one
 * output base.
 *
 * @param machine See machine_id.ts.
 * @param outputBase Absolute; need not exist yet.
 */
export function serverId(machine: string, outputBase: string): string {
  return hexDigest(machine).slice(0, 8) + hexDigest(machine, leadsTo(outputBase)).slice(0, 8);
}

/** The client resolves symlinks before it passes the output base to a server; readers of rc files do not. */
function leadsTo(outputBase: string): string {
  try {
    return realPath(outputBase);
  } catch {
    return outputBase;
  }
}
