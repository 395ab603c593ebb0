/**
 * Writes files with holes: long runs of zeros are not written, so that a file of gigabytes with a few kilobytes of data
 * takes no more disk than at its source. Reading a hole gives zeros.
 */
import { Buffer } from "node:buffer";
import type { OpenFile } from "./files.ts";

/** Zeros are found in blocks of the size that file systems allocate. Bytes. */
const BLOCK_BYTES = 4096;
/** Shorter runs are written: a hole costs two more calls, and fragments the file. Bytes. */
const HOLE_BYTES = 16 << 10;
const ZEROS = Buffer.alloc(BLOCK_BYTES);

/** A range of bytes; `end` is exclusive. */
export interface Range {
  start: number;
  end: number;
}

/**
 * The ranges of a content that have to be written; all else is zeros. Undefined, as for nearly all content, if all of
 * it has to be written.
 *
 * @param at Offset of the content in its file, in bytes.
 */
export function dataRanges(content: Uint8Array, at = 0): Range[] | undefined {
  const { length } = content;
  if (length < HOLE_BYTES) return undefined;
  const buffer = Buffer.from(content.buffer, content.byteOffset, length);
  let ranges: Range[] | undefined;
  // Start of the data that is in no range yet, and of the zeros after it.
  let data = 0, zeros = -1;
  const endOfZeros = (end: number) => {
    if (zeros < 0) return;
    if (end - zeros >= HOLE_BYTES) {
      ranges ??= [];
      if (zeros > data) ranges.push({ start: data, end: zeros });
      data = end;
    }
    zeros = -1;
  };
  for (let start = 0; start < length;) {
    const end = Math.min(length, start + BLOCK_BYTES - (at + start) % BLOCK_BYTES);
    // For most blocks the first byte decides.
    const isZero = content[start] === 0 && buffer.compare(ZEROS, 0, end - start, start, end) === 0;
    if (!isZero) endOfZeros(start);
    else if (zeros < 0) zeros = start;
    start = end;
  }
  endOfZeros(length);
  if (ranges && data < length) ranges.push({ start: data, end: length });
  return ranges;
}

/**
 * Writes content at the end of a file, which is at `at`, as is the file's position. Long runs of zeros become holes.
 */
export function writeSparse(file: OpenFile, content: Uint8Array<ArrayBuffer>, at: number): void {
  const ranges = dataRanges(content, at);
  if (!ranges) return file.write(content);
  for (const { start, end } of ranges) {
    file.seek(at + start);
    file.write(content.subarray(start, end));
  }
  extend(file, at + content.length);
}

/** Like {@link writeSparse}, without blocking this thread. Do not change `content` until it resolves. */
export async function writeSparseLarge(file: OpenFile, content: Uint8Array<ArrayBuffer>, at: number): Promise<void> {
  const ranges = dataRanges(content, at);
  if (!ranges) return await file.writeLarge(content);
  for (const { start, end } of ranges) {
    file.seek(at + start);
    await file.writeLarge(content.subarray(start, end));
  }
  extend(file, at + content.length);
}

/** A hole at the end needs the size to be set. */
function extend(file: OpenFile, size: number): void {
  file.truncate(size);
  file.seek(size);
}

/**
 * Copies the rest of `source` from offset `at` to a target of `at` bytes. Long runs of zeros become holes. Yields after
 * each piece, so that other work can run.
 */
export function* copySparse(source: OpenFile, target: OpenFile, at = 0): Generator<void> {
  const buffer = new Uint8Array(1 << 20);
  source.seek(at);
  target.seek(at);
  for (let n = source.read(buffer); n > 0; n = source.read(buffer)) {
    writeSparse(target, buffer.subarray(0, n), at);
    at += n;
    yield;
  }
}
