import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { encodeFields } from "../base/protobuf_fields.ts";
import { changeRun, isForShutdown, readRunRequest } from "./run_request.ts";

const RUN = encodeFields([
  [1, "cookie"],
  [2, "build"],
  [2, "//..."],
  [3, true],
  [4, "pid=7 (for shutdown)"],
  [6, encodeFields([[1, "--batch"], [2, ".bazelrc"]])],
  [9, true],
  [10, 5_000],
  [99, "of tomorrow"],
]);

Deno.test("a request is read whole", () => {
  const read = readRunRequest(RUN);
  assert.deepEqual(read.args.map(String), ["build", "//..."]);
  const { command, blockForLock, lockTimeoutMs, quiet, client } = read;
  assert.deepEqual({ command, blockForLock, lockTimeoutMs, quiet, client }, {
    command: "build",
    blockForLock: true,
    lockTimeoutMs: 5_000,
    quiet: true,
    client: "pid=7 (for shutdown)",
  });
  assert.deepEqual(read.startupOptions.map(({ option, source }) => [`${Buffer.from(option)}`, source]), [
    ["--batch", ".bazelrc"],
  ]);
  assert.ok(isForShutdown(read));
});

Deno.test("who does not want to wait for the lock waits no time, however long was named", () => {
  assert.equal(readRunRequest(encodeFields([[10, 5_000]])).lockTimeoutMs, 0);
  assert.equal(readRunRequest(encodeFields([[3, true]])).lockTimeoutMs, Infinity);
});

Deno.test("what is changed in a request is changed once, and the rest stays, known or not", () => {
  const fields = (bytes: Uint8Array) => bytes.toString();
  const rest: Parameters<typeof encodeFields>[0] = [[4, "pid=7 (for shutdown)"], [
    6,
    encodeFields([[1, "--batch"], [2, ".bazelrc"]]),
  ], [9, true]];
  assert.equal(
    fields(changeRun(RUN, { cookie: "other", args: [Buffer.from("info")], lockTimeoutMs: 1 })),
    fields(encodeFields([[1, "other"], [2, "info"], [10, 1], [3, true], ...rest, [99, "of tomorrow"]])),
  );
  assert.equal(
    fields(changeRun(RUN, { cookie: "" })),
    // The cookie's field is there: agents of former versions replace it, and add none.
    fields(Buffer.concat([
      Buffer.from([0x0a, 0]),
      encodeFields([[2, "build"], [2, "//..."], [3, true], ...rest, [10, 5_000], [99, "of tomorrow"]]),
    ])),
  );
  assert.equal(readRunRequest(changeRun(RUN, { cookie: "", args: [] })).command, "");
});

Deno.test("a field of another wire type is one that nobody knows", () => {
  const odd = Buffer.concat([
    Buffer.from([0x11]),
    Buffer.from("shutdown"),
    encodeFields([[2, "build"], [3, "x"], [4, 7]]),
  ]);
  const { command, blockForLock, client } = readRunRequest(odd);
  assert.deepEqual({ command, blockForLock, client }, { command: "build", blockForLock: false, client: "" });
});
