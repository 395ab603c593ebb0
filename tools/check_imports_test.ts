import assert from "node:assert/strict";
import { faultsOf } from "./check_imports.ts";

const FLOORS = [["base"], ["a/low", "a/side"], ["a/low/high.ts"], ["b"]];

/** The faults of a house of these files, each with what it imports. */
function faults(files: Record<string, string[]>): string[] {
  return faultsOf(new Map(Object.entries(files)), FLOORS, ["a", "b"]);
}

Deno.test("imports of the same room and from below are in order", () => {
  assert.deepEqual(
    faults({
      "base/x.ts": ["base/y.ts"],
      "base/y.ts": [],
      "a/low/x.ts": ["base/x.ts", "a/low/y.ts"],
      "a/low/y.ts": [],
      "a/low/high.ts": ["a/low/x.ts", "a/side/x.ts"],
      "a/side/x.ts": ["base/y.ts"],
    }),
    [],
  );
});

Deno.test("an import from above, from beside, of another program, without a room or in a circle is named", () => {
  const cases: [Record<string, string[]>, RegExp][] = [
    [{ "base/x.ts": ["a/low/x.ts"] }, /base\/x.ts imports a\/low\/x.ts of another program/],
    [{ "a/low/x.ts": ["a/low/high.ts"] }, /a\/low\/x.ts imports a\/low\/high.ts from a floor above/],
    [{ "a/low/x.ts": ["a/side/x.ts"] }, /of another room of its floor \(a\/low, a\/side\)/],
    [{ "b/x.ts": ["a/low/x.ts"] }, /b\/x.ts imports a\/low\/x.ts of another program/],
    [{ "c/x.ts": [] }, /c\/x.ts is in no room/],
    [{ "b/x.ts": ["b/y.ts"], "b/y.ts": ["b/z.ts"], "b/z.ts": ["b/y.ts"] }, /each other: b\/y.ts → b\/z.ts → b\/y.ts/],
  ];
  for (const [files, expected] of cases) {
    const found = faults(files);
    assert.equal(found.length, 1, found.join("\n"));
    assert.match(found[0], expected);
  }
});
