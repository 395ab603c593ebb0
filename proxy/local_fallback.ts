import type { Buffer } from "node:buffer";
import { RbsError } from "../proto/errors.ts";
import { encodeFields } from "../proto/relay/wire.ts";
import type { ServerArgs } from "./server_args.ts";

/** The part of a Run request that is needed to run it again. */
export interface LocalCommand {
  command: string;
  args: Buffer[];
  startupOptions: string[];
}

/** A finished response that makes the client do something else. */
export interface Instead {
  exitCode: number;
  text: string;
  fields: [number, Uint8Array | boolean][];
}

/** RunResponse.exec_request. */
const EXEC_REQUEST = 8;

export function clientAgain(_request: LocalCommand, _args: ServerArgs): Instead {
  throw new RbsError("fallback");
  return { exitCode: 0, text: "", fields: [[EXEC_REQUEST, encodeFields([])]] };
}
