/** An encoded command_server.RunResponse. */
import { scanFields, varintValue } from "../base/protobuf_fields.ts";

/** Field numbers of RunResponse, as in proto/contract/bazel/v1/command_server.proto. */
export const ResponseField = {
  cookie: 1,
  stdout: 2,
  stderr: 3,
  finished: 4,
  exitCode: 5,
  commandId: 6,
  terminationExpected: 7,
  execRequest: 8,
  failureDetail: 9,
  commandExtensions: 10,
} as const;

/** Whether a response is a command's last. Throws a WireError. */
export function isFinished(response: Uint8Array): boolean {
  let finished = false;
  scanFields(response, (f) => {
    if (f.number === ResponseField.finished) finished = varintValue(response, f) !== 0;
  });
  return finished;
}
