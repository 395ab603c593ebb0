import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { bytesValue, encodeFields, scanFields } from "../../proto/base/protobuf_fields.ts";
import { BuildEventsNotice } from "./build_events_notice.ts";

/** What a client prints of these pieces of standard error. */
function printed(...pieces: string[]): string {
  const notice = new BuildEventsNotice();
  return pieces.map((piece) => {
    const response = encodeFields([[1, "cookie"], [3, Buffer.from(piece, "latin1")], [6, "id"], [99, "later"]]);
    const filtered = notice.filter(response) ?? response;
    let text = "", others = 0;
    scanFields(filtered, (f) => {
      if (f.number === 3) text = Buffer.from(bytesValue(filtered, f)).toString("latin1");
      else others++;
    });
    assert.equal(others, 3);
    return text;
  }).join("");
}

const NOTICE = "INFO: Build Event Protocol files produced successfully.\n";
const DONE = "INFO: Build completed successfully, 1 total action\n";

Deno.test("Bazel 2.1.0 and 4.2.3: the line goes, everything else stays", () => {
  assert.equal(printed(DONE, NOTICE, DONE), DONE + DONE);
  assert.equal(
    printed(`\r\x1b[1A\x1b[K\x1b[32mINFO: \x1b[0m${NOTICE.slice(6)}\x1b[32mINFO:\x1b[0m Done\n`, "\r\x1b[1A\x1b[K"),
    "\r\x1b[1A\x1b[K\x1b[32mINFO:\x1b[0m Done\n\r\x1b[1A\x1b[K",
  );
});

Deno.test("a command that was refused before it began says nothing of build events", () => {
  assert.equal(printed("ERROR: no\n", "WARNING: BES was not properly closed\n", NOTICE), "ERROR: no\n");
});

Deno.test("Bazel 7.7.1: the empty progress bar goes as well", () => {
  assert.equal(printed(DONE, "INFO: \n", NOTICE), DONE);
  assert.equal(printed("ERROR: no\n", "\x1b[31m\x1b[1mFAILED:\x1b[0m \n", NOTICE), "ERROR: no\n");
});

Deno.test("a bar that the terminal wipes away stays, or another line would be wiped", () => {
  const wiped = ["\r\x1b[1A\x1b[K", "\x1b[32mINFO:\x1b[0m \n", "\r\x1b[1A\x1b[K"];
  assert.equal(printed(...wiped), wiped.join(""));
});

Deno.test("output that only looks like it stays", () => {
  for (const text of ["INFO: \nx\n", "a test prints\n", "INFO: x\n", `${"x".repeat(5_000)}\n${NOTICE}`]) {
    assert.equal(printed(text), text);
  }
});
