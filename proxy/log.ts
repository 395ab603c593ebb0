import { log as write } from "../proto/base/log.ts";

/** Writes one line to the proxy's log: `server/jvm.out` of the output base. A client may show that, so it says whose it is. */
export function log(message: string): void {
  write(`rbs: ${message}`);
}
