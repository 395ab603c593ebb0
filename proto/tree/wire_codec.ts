/** Writing and reading protobuf fields one by one, for messages of which there are a hundred thousand at a time. */
import { Buffer } from "node:buffer";
import { WireError } from "../relay/wire.ts";
import { encodeName, isRaw } from "./names.ts";

/** Appends fields to a growing buffer. Zero, false and empty values are left out, as proto3 does. */
export class WireWriter {
  #buffer: Buffer;
  #length = 0;

  constructor(capacity = 1 << 16) {
    this.#buffer = Buffer.allocUnsafe(capacity);
  }

  /** Bytes so far. */
  get length(): number {
    return this.#length;
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#length + bytes));
    this.#buffer.copy(larger, 0, 0, this.#length);
    this.#buffer = larger;
  }

  #raw(value: number): void {
    while (value >= 128) {
      this.#buffer[this.#length++] = (value % 128) | 128;
      value = Math.floor(value / 128);
    }
    this.#buffer[this.#length++] = value;
  }

  /** A varint field. */
  varint(field: number, value: number): void {
    if (value === 0) return;
    this.#reserve(15);
    this.#raw(field * 8);
    this.#raw(value);
  }

  /** A field of bytes. */
  bytes(field: number, value: Uint8Array): void {
    if (value.length === 0) return;
    this.#reserve(15 + value.length);
    this.#raw(field * 8 + 2);
    this.#raw(value.length);
    this.#buffer.set(value, this.#length);
    this.#length += value.length;
  }

  /** A field of a name's bytes, see names.ts. */
  text(field: number, value: string): void {
    if (value.length === 0) return;
    if (isRaw(value)) return this.bytes(field, encodeName(value));
    const length = Buffer.byteLength(value);
    this.#reserve(15 + length);
    this.#raw(field * 8 + 2);
    this.#raw(length);
    this.#length += this.#buffer.write(value, this.#length, length, "utf8");
  }

  /** A field that is a message, which `write` writes; it stands there even if it is empty. */
  message(field: number, write: (out: WireWriter) => void): void {
    this.#reserve(10);
    this.#raw(field * 8 + 2);
    const at = this.#length;
    // One byte for the length holds for most; longer ones are moved.
    this.#length++;
    write(this);
    const length = this.#length - at - 1;
    if (length < 128) {
      this.#buffer[at] = length;
      return;
    }
    let more = 0;
    for (let rest = length; rest >= 128; rest = Math.floor(rest / 128)) more++;
    this.#reserve(more);
    this.#buffer.copyWithin(at + 1 + more, at + 1, this.#length);
    this.#length = at;
    this.#raw(length);
    this.#length += length;
  }

  /** What was written; the writer begins anew with a buffer of its own. */
  finish(): Buffer {
    const done = this.#buffer.subarray(0, this.#length);
    this.#buffer = Buffer.allocUnsafe(this.#buffer.length);
    this.#length = 0;
    return done;
  }
}

/** Walks through a message's fields: `while (r.next()) switch (r.field) …`, each read or skipped. Throws WireErrors. */
export class WireReader {
  readonly #message: Uint8Array;
  #at = 0;
  /** The number of the present field. */
  field = 0;
  /** Its wire type. */
  type = 0;

  constructor(message: Uint8Array) {
    this.#message = message;
  }

  /** Goes on to the next field; false at the end. */
  next(): boolean {
    if (this.#at >= this.#message.length) return false;
    const tag = this.#raw();
    this.field = Math.floor(tag / 8);
    this.type = tag % 8;
    if (this.field === 0) throw new WireError("field number 0");
    return true;
  }

  #raw(): number {
    let value = 0, scale = 1;
    for (let i = 0; i < 10; i++) {
      if (this.#at >= this.#message.length) throw new WireError("a varint is cut short");
      const byte = this.#message[this.#at++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 128;
    }
    throw new WireError("a varint is longer than 10 bytes");
  }

  /** The present field's number. */
  varint(): number {
    if (this.type !== 0) throw new WireError(`field ${this.field} has wire type ${this.type}`);
    return this.#raw();
  }

  /** The present field's bytes: a view. */
  bytes(): Uint8Array {
    if (this.type !== 2) throw new WireError(`field ${this.field} has wire type ${this.type}`);
    const length = this.#raw();
    const end = this.#at + length;
    if (end > this.#message.length) throw new WireError(`field ${this.field} is cut short`);
    const value = this.#message.subarray(this.#at, end);
    this.#at = end;
    return value;
  }

  /** Leaves the present field out. */
  skip(): void {
    if (this.type === 0) this.#raw();
    else if (this.type === 2) this.bytes();
    else if (this.type === 1 || this.type === 5) this.#at += this.type === 1 ? 8 : 4;
    else throw new WireError(`wire type ${this.type}`);
    if (this.#at > this.#message.length) throw new WireError(`field ${this.field} is cut short`);
  }
}
