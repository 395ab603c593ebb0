/** Writes and reads protobuf fields one by one, for messages that come by the hundred thousand. */
import { Buffer } from "node:buffer";
import { WireError } from "../base/protobuf_fields.ts";
import { decodeName, encodeName } from "./names.ts";

/** Appends fields to a growing buffer. Zero, false and empty values are left out, as in proto3. */
export class WireWriter {
  readonly #capacity: number;
  /** Bytes left free at the start of the buffer. */
  readonly #headroom: number;
  #buffer = Buffer.alloc(0);
  #end: number;
  /** The buffer that {@link reuse} returned. */
  #spare?: Buffer<ArrayBuffer>;

  /**
   * @param capacity Initial size in bytes.
   * @param headroom Bytes that {@link finish} can put before the fields.
   */
  constructor(capacity: number, headroom = 0) {
    this.#capacity = capacity;
    this.#headroom = this.#end = headroom;
  }

  /** Bytes written so far. */
  get length(): number {
    return this.#end - this.#headroom;
  }

  #reserve(bytes: number): Buffer {
    const buffer = this.#buffer;
    if (this.#end + bytes <= buffer.length) return buffer;
    const needed = Math.max(this.#capacity, buffer.length * 2, this.#end + bytes);
    const larger = this.#spare && this.#spare.length >= needed ? this.#spare : Buffer.allocUnsafe(needed);
    if (larger === this.#spare) this.#spare = undefined;
    buffer.copy(larger, 0, 0, this.#end);
    return this.#buffer = larger;
  }

  /** Writes a varint field. */
  varint(field: number, value: number): void {
    if (value === 0) return;
    const buffer = this.#reserve(15);
    this.#end = putVarint(buffer, putVarint(buffer, this.#end, field * 8), value);
  }

  /** Writes a field of bytes. */
  bytes(field: number, value: Uint8Array): void {
    if (value.length === 0) return;
    const buffer = this.#reserve(15 + value.length);
    const at = putVarint(buffer, putVarint(buffer, this.#end, field * 8 + 2), value.length);
    buffer.set(value, at);
    this.#end = at + value.length;
  }

  /** Writes a field of `length` bytes, which `fill` writes into the given buffer. */
  filled(field: number, length: number, fill: (into: Uint8Array) => void): void {
    if (length === 0) return;
    const buffer = this.#reserve(15 + length);
    const at = putVarint(buffer, putVarint(buffer, this.#end, field * 8 + 2), length);
    fill(buffer.subarray(at, at + length));
    this.#end = at + length;
  }

  /** Writes a field with the bytes of a name, see names.ts. */
  text(field: number, value: string): void {
    const { length } = value;
    if (length === 0) return;
    const buffer = this.#reserve(15 + length);
    const at = putVarint(buffer, putVarint(buffer, this.#end, field * 8 + 2), length);
    for (let i = 0; i < length; i++) {
      const code = value.charCodeAt(i);
      if (code > 0x7f) return this.bytes(field, encodeName(value));
      buffer[at + i] = code;
    }
    this.#end = at + length;
  }

  /**
   * Writes a field that is a message, written by `write`. An empty message is written too.
   *
   * @param expected Estimated length. The content is moved if its length needs another number of bytes than the
   * estimate.
   */
  message(field: number, write: (out: WireWriter) => void, expected = 0): void {
    const lengthAt = putVarint(this.#reserve(20), this.#end, field * 8 + 2);
    const at = lengthAt + varintBytes(expected);
    this.#end = at;
    write(this);
    const length = this.#end - at;
    const moved = lengthAt + varintBytes(length);
    if (moved !== at) this.#reserve(10).copyWithin(moved, at, this.#end);
    putVarint(this.#buffer, lengthAt, length);
    this.#end = moved + length;
  }

  /** Discards what was written after `length` bytes. */
  cut(length: number): void {
    this.#end = this.#headroom + length;
  }

  /** Returns what was written, preceded by `before` (at most the headroom), and starts over. */
  finish(before: Uint8Array = NOTHING): Buffer {
    const buffer = this.#reserve(0);
    const start = this.#headroom - before.length;
    buffer.set(before, start);
    const done = buffer.subarray(start, this.#end);
    this.#buffer = Buffer.alloc(0);
    this.#end = this.#headroom;
    return done;
  }

  /** Takes back the memory of {@link finish} when it is no longer used: fresh memory costs more than filling it. */
  reuse(done: Uint8Array): void {
    // Small buffers share Node's pool with others.
    if (done.buffer.byteLength >= this.#capacity) this.#spare = Buffer.from(done.buffer as ArrayBuffer);
  }

  /** Returns a copy of what was written and starts over with the same buffer. */
  take(): Buffer {
    const done = Buffer.allocUnsafe(this.#end - this.#headroom);
    done.set(this.#buffer.subarray(this.#headroom, this.#end));
    this.#end = this.#headroom;
    return done;
  }
}

const NOTHING = new Uint8Array();

/**
 * Iterates over a message's fields: `while (r.next()) switch (r.field) …`, reading or skipping each. Throws WireErrors.
 */
export class WireReader {
  readonly #message: Uint8Array;
  #at = 0;
  /** The number of the current field. */
  field = 0;
  /** The wire type of the current field. */
  type = 0;

  constructor(message: Uint8Array) {
    this.#message = message;
  }

  /** Moves to the next field; false at the end. */
  next(): boolean {
    if (this.#at >= this.#message.length) return false;
    const tag = this.#raw();
    this.field = Math.floor(tag / 8);
    this.type = tag % 8;
    if (this.field === 0 || tag > 0xffffffff) throw new WireError(`field number ${this.field}`);
    return true;
  }

  /** Reads a varint. Values above 2^53 lose low bits. */
  #raw(): number {
    const message = this.#message;
    let at = this.#at, value = 0, scale = 1;
    for (let i = 0; i < 10; i++) {
      if (at >= message.length) throw new WireError("a varint is cut short");
      const byte = message[at++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        this.#at = at;
        return value;
      }
      scale *= 128;
    }
    throw new WireError("a varint is longer than 10 bytes");
  }

  /** The current field's varint. */
  varint(): number {
    if (this.type !== 0) throw new WireError(`field ${this.field} has wire type ${this.type}`);
    return this.#raw();
  }

  /** The offset of the current field's bytes. Moves past them. */
  #delimited(): number {
    if (this.type !== 2) throw new WireError(`field ${this.field} has wire type ${this.type}`);
    const length = this.#raw();
    const start = this.#at;
    if (start + length > this.#message.length) throw new WireError(`field ${this.field} is cut short`);
    this.#at = start + length;
    return start;
  }

  /** The current field's bytes, as a view. */
  bytes(): Uint8Array {
    const start = this.#delimited();
    return this.#message.subarray(start, this.#at);
  }

  /** A copy of the current field's bytes, which does not keep the message in memory. */
  copy(): Uint8Array {
    const start = this.#delimited();
    // Many times faster than Buffer.from(bytes) in Deno 2.9.6.
    const copy = Buffer.allocUnsafe(this.#at - start);
    copy.set(this.#message.subarray(start, this.#at));
    return copy;
  }

  /** The current field's bytes, decoded as a name. */
  text(): string {
    return decodeName(this.bytes());
  }

  /** Skips the current field. */
  skip(): void {
    if (this.type === 0) this.#raw();
    else if (this.type === 2) this.#delimited();
    else if (this.type === 1 || this.type === 5) this.#at += this.type === 1 ? 8 : 4;
    else throw new WireError(`wire type ${this.type}`);
    if (this.#at > this.#message.length) throw new WireError(`field ${this.field} is cut short`);
  }
}

/** Writes a varint. @returns the offset after it */
function putVarint(buffer: Uint8Array, at: number, value: number): number {
  // Bit operations work on 32 bits only.
  while (value > 0x7fffffff) {
    buffer[at++] = (value % 128) | 128;
    value = Math.floor(value / 128);
  }
  while (value > 127) {
    buffer[at++] = (value & 127) | 128;
    value >>>= 7;
  }
  buffer[at++] = value;
  return at;
}

function varintBytes(value: number): number {
  let bytes = 1;
  for (; value > 127; value = Math.floor(value / 128)) bytes++;
  return bytes;
}
