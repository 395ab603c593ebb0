/**
 * Reads and patches encoded protobuf messages without a schema. Bazel's messages are never decoded and encoded again,
 * since that would drop fields of newer Bazels. Known top-level fields are read, and the bytes of a few are replaced.
 *
 *     message = field*      field = tag value      tag = varint(number << 3 | wire type)
 */
import { Buffer } from "node:buffer";

/** An encoded message that is not protobuf. */
export class WireError extends Error {
  override readonly name = "WireError";
}

/** A top-level field: offsets of its tag, of its value (after a length, if there is one), and of its end. */
export interface Field {
  number: number;
  /** 0 varint, 1 fixed64, 2 length-delimited, 5 fixed32. */
  wireType: number;
  start: number;
  valueStart: number;
  end: number;
}

/** Visits each top-level field in order. Throws {@link WireError} for a malformed message. */
export function scanFields(message: Uint8Array, visit: (field: Field) => void): void {
  let at = 0;
  // Reads a varint at `at`. Values above 2^53 lose low bits; no field used here has such values.
  const varint = (): number => {
    let value = 0, scale = 1;
    for (let i = 0; i < 10; i++) {
      if (at >= message.length) throw new WireError("a varint is cut short");
      const byte = message[at++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 128;
    }
    throw new WireError("a varint is longer than 10 bytes");
  };
  while (at < message.length) {
    const start = at;
    const tag = varint();
    const number = Math.floor(tag / 8), wireType = tag % 8;
    if (number === 0) throw new WireError("field number 0");
    let valueStart = at;
    switch (wireType) {
      case 0:
        varint();
        break;
      case 1:
        at += 8;
        break;
      case 2: {
        const length = varint();
        valueStart = at;
        at += length;
        break;
      }
      case 5:
        at += 4;
        break;
      default:
        throw new WireError(`wire type ${wireType}`);
    }
    if (at > message.length) throw new WireError(`field ${number} is cut short`);
    visit({ number, wireType, start, valueStart, end: at });
  }
}

/** The value of a varint field. */
export function varintValue(message: Uint8Array, field: Field): number {
  let value = 0, scale = 1;
  for (let i = field.valueStart; i < field.end; i++) {
    value += (message[i] & 0x7f) * scale;
    scale *= 128;
  }
  return value;
}

/** The bytes of a length-delimited field; a view, not a copy. */
export function bytesValue(message: Uint8Array, field: Field): Uint8Array {
  return message.subarray(field.valueStart, field.end);
}

/** The text of a length-delimited field, as UTF-8. */
export function textValue(message: Uint8Array, field: Field): string {
  return Buffer.from(message.buffer, message.byteOffset + field.valueStart, field.end - field.valueStart).toString();
}

function encodeVarint(value: number): number[] {
  const out: number[] = [];
  while (value >= 128) {
    out.push((value % 128) | 128);
    value = Math.floor(value / 128);
  }
  out.push(value);
  return out;
}

/** The encoded tag and length of a length-delimited field. */
export function lengthPrefix(number: number, length: number): Uint8Array {
  return Uint8Array.from([...encodeVarint(number * 8 + 2), ...encodeVarint(length)]);
}

/**
 * Encodes a message of top-level fields, in the given order: text and bytes as length-delimited fields, numbers and
 * booleans as varints. Undefined, empty text, 0 and false are left out, as in proto3.
 */
export function encodeFields(
  fields: [number: number, value: string | Uint8Array | number | boolean | undefined][],
): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const [number, value] of fields) {
    if (!value || (typeof value === "object" && value.length === 0)) continue;
    if (typeof value === "object" || typeof value === "string") {
      const bytes = Buffer.from(value as string);
      parts.push(lengthPrefix(number, bytes.length), bytes);
    } else parts.push(Uint8Array.from([...encodeVarint(number * 8), ...encodeVarint(Number(value))]));
  }
  return Buffer.concat(parts);
}

/**
 * Replaces some length-delimited top-level fields. Returns consecutive pieces (views of `message` where nothing
 * changed). `replace` gets each field and returns its new value, or undefined to keep it; fields of other wire types
 * always stay.
 */
export function patchFields(
  message: Uint8Array,
  replace: (field: Field) => Uint8Array | undefined,
): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let kept = 0;
  scanFields(message, (field) => {
    const value = replace(field);
    if (!value || field.wireType !== 2) return;
    if (field.start > kept) pieces.push(message.subarray(kept, field.start));
    pieces.push(lengthPrefix(field.number, value.length), value);
    kept = field.end;
  });
  if (kept < message.length) pieces.push(message.subarray(kept));
  return pieces;
}
