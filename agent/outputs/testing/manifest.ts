import { createHash } from "node:crypto";
import assert from "node:assert/strict";
import { bytesValue, scanFields, textValue } from "../../../proto/base/protobuf_fields.ts";
import { decodeEntry, type Entry } from "../../../proto/tree/entry.ts";

/** The content of Outputs messages. */
export interface Manifest {
  entries: Entry[];
  id: Uint8Array;
  unchanged: boolean;
  cleaned: boolean;
  warnings: string[];
  home: Entry[];
  gone: string[];
}

/**
 * Reads encoded Outputs messages; undefined if there are none. Fails if there is an id that does not match the entries.
 */
export function readManifest(parts: readonly Uint8Array[]): Manifest | undefined {
  if (parts.length === 0) return undefined;
  const manifest: Manifest = {
    entries: [],
    id: new Uint8Array(),
    unchanged: false,
    cleaned: false,
    warnings: [],
    home: [],
    gone: [],
  };
  let hasId = false;
  const id = createHash("sha256");
  for (const part of parts) {
    scanFields(part, (field) => {
      if (field.number === 1) {
        assert.ok(!hasId, "the id comes with the last entries");
        const encoded = bytesValue(part, field);
        id.update(encoded);
        manifest.entries.push(decodeEntry(encoded, { absolute: true }));
      } else if (field.number === 2) {
        hasId = true;
        manifest.id = bytesValue(part, field);
      } else if (field.number === 3) manifest.unchanged = true;
      else if (field.number === 4) manifest.cleaned = true;
      else if (field.number === 5) manifest.warnings.push(textValue(part, field));
      else if (field.number === 6) manifest.home.push(decodeEntry(bytesValue(part, field), { absolute: true }));
      else if (field.number === 7) manifest.gone.push(textValue(part, field));
    });
  }
  if (!manifest.unchanged && manifest.id.length > 0) {
    assert.deepEqual([...manifest.id], [...id.digest()], "the id is that of the entries");
  }
  return manifest;
}
