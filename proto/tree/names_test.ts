import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { random } from "../testing/pipe.ts";
import { checkPath, decodeName, encodeName, isRaw, TreeError } from "./names.ts";

Deno.test("every sequence of bytes has one spelling, and comes back from it", () => {
  const below = random(1);
  // Bytes at which UTF-8 has its edges, more often than others.
  const edges = [
    0x00,
    0x41,
    0x7f,
    0x80,
    0xbf,
    0xc0,
    0xc2,
    0xdf,
    0xe0,
    0xa0,
    0x9f,
    0xed,
    0xef,
    0xf0,
    0x90,
    0x8f,
    0xf4,
    0xf5,
  ];
  const spellings = new Map<string, string>();
  for (let i = 0; i < 20_000; i++) {
    const bytes = Buffer.from(
      Array.from({ length: below(9) }, () => below(3) ? edges[below(edges.length)] : below(256)),
    );
    const name = decodeName(bytes);
    assert.deepEqual(Buffer.from(encodeName(name)), bytes);
    const hex = bytes.toString("hex");
    assert.equal(spellings.get(name) ?? hex, hex, `two names are spelled ${JSON.stringify(name)}`);
    spellings.set(name, hex);
    assert.equal(isRaw(name), bytes.toString("utf8") !== name);
  }
});

Deno.test("names that are UTF-8 are what they look like", () => {
  for (const name of ["a", "ä", "a\u0308", "💀", "\ufffd", "\ufeffbom", "", "a\nb"]) {
    assert.equal(decodeName(Buffer.from(name)), name);
    assert.ok(!isRaw(name));
  }
  assert.equal(decodeName(Buffer.from([0x61, 0xff, 0xc3, 0xa4])), "a\udcffä");
  assert.ok(isRaw("a\udcffä"));
});

Deno.test("a string that is the name of no file is refused", () => {
  for (const name of ["\ud800", "a\udfff", "\udc80\ud83d"]) assert.throws(() => encodeName(name), TreeError);
});

Deno.test("a path is relative, and each of its names is one", () => {
  const good = ["a", "a/b", "...", ".a/..b/c..", "a/ü/\udcff", "-", " ", "a\nb", "x".repeat(255), "語".repeat(85)];
  for (const path of good) checkPath(path);
  checkPath("\udcff".repeat(255));
  checkPath(`${"abc/".repeat(1000)}d`);
  const bad = ["", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "a/../b", "../a", "a/..", "a\0", "\0"];
  bad.push(
    "x".repeat(256),
    "語".repeat(86),
    `${"\udcff".repeat(256)}`,
    "a/".repeat(2100) + "b",
    "ü/".repeat(1400) + "b",
  );
  for (const path of bad) assert.throws(() => checkPath(path), TreeError, JSON.stringify(path));
});
