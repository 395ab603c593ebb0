import { createHash } from "node:crypto";
import assert from "node:assert/strict";
import { bytesValue, scanFields, textValue } from "../../../proto/relay/wire.ts";
import { decodeEntry, type Entry } from "../../../proto/tree/entry.ts";

/** Outputs messages, put together. */
export interface Manifest {
  entries: Entry[];
  id: Uint8Array;
  unchanged: boolean;
  cleaned: boolean;
  warnings: string[];
}

/** Reads encoded Outputs messages; undefined if there are none. Fails if there is an id that is not the entries'. */
export function readManifest(parts: readonly Uint8Array[]): Manifest | undefined {
  if (parts.length === 0) return undefined;
  const manifest: Manifest = { entries: [], id: new Uint8Array(), unchanged: false, cleaned: false, warnings: [] };
  const id = createHash("sha256");
  parts.forEach((part, i) =>
    scanFields(part, (field) => {
      if (field.number === 1) {
        const encoded = bytesValue(part, field);
        id.update(encoded);
        manifest.entries.push(decodeEntry(encoded, { absolute: true }));
      } else if (field.number === 2) {
        assert.equal(i, parts.length - 1, "the id comes with the last part");
        manifest.id = bytesValue(part, field);
      } else if (field.number === 3) manifest.unchanged = true;
      else if (field.number === 4) manifest.cleaned = true;
      else if (field.number === 5) manifest.warnings.push(textValue(part, field));
    })
  );
  if (!manifest.unchanged && manifest.id.length > 0) {
    assert.deepEqual([...manifest.id], [...id.digest()], "the id is that of the entries");
  }
  return manifest;
}
