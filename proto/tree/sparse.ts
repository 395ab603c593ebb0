/**
 * Files with holes: where content has long runs of zeros, nothing is written, so that a file of gigabytes that holds a
 * few kilobytes takes no more disk here than where it came from. Reading gives zeros in either case.
 */
import { Buffer } from "node:buffer";
import type { OpenFile } from "./files.ts";

/** Zeros are looked for in pieces that file systems keep or leave out as a whole. Bytes. */
const BLOCK_BYTES = 4096;
/** Shorter runs are written: a hole costs two more calls, and cuts a file into pieces on the disk. Bytes. */
const HOLE_BYTES = 16 << 10;
const ZEROS = Buffer.alloc(BLOCK_BYTES);

/** A part of some content. */
export interface Range {
  start: number;
  end: number;
}

/**
 * The parts of some content that are to be written; what is between them, before and behind is zeros. Undefined, as for
 * nearly all content: all of it.
 *
 * @param at Where in its file the content begins, in bytes.
 */
export function dataRanges(content: Uint8Array, at = 0): Range[] | undefined {
  const { length } = content;
  if (length < HOLE_BYTES) return undefined;
  const buffer = Buffer.from(content.buffer, content.byteOffset, length);
  let ranges: Range[] | undefined;
  // Where data begins that is not in a range yet, and the zeros behind it.
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
    // One byte says it of nearly all blocks.
    const isZero = content[start] === 0 && buffer.compare(ZEROS, 0, end - start, start, end) === 0;
    if (!isZero) endOfZeros(start);
    else if (zeros < 0) zeros = start;
    start = end;
  }
  endOfZeros(length);
  if (ranges && data < length) ranges.push({ start: data, end: length });
  return ranges;
}

/** Writes what comes next of a file that ends at `at`, where its position is. Long runs of zeros become holes. */
export function writeSparse(file: OpenFile, content: Uint8Array<ArrayBuffer>, at: number): void {
  const ranges = dataRanges(content, at);
  if (!ranges) return file.write(content);
  for (const { start, end } of ranges) {
    file.seek(at + start);
    file.write(content.subarray(start, end));
  }
  extend(file, at + content.length);
}

/** The same without holding up this thread; the content is lent until it is done. */
export async function writeSparseLarge(file: OpenFile, content: Uint8Array<ArrayBuffer>, at: number): Promise<void> {
  const ranges = dataRanges(content, at);
  if (!ranges) return await file.writeLarge(content);
  for (const { start, end } of ranges) {
    file.seek(at + start);
    await file.writeLarge(content.subarray(start, end));
  }
  extend(file, at + content.length);
}

/** A hole at the end is no write: the file's size says it. */
function extend(file: OpenFile, size: number): void {
  file.truncate(size);
  file.seek(size);
}

/**
 * Copies what a file has beyond the end of another, of `at` bytes, to there; long runs of zeros become holes. Others may
 * have their turn at each step.
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
