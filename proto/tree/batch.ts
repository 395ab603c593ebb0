/**
 * Packs many changes of a tree into one message (FileBatch of proto/contract/rbs/v1/tree.proto):
 *
 *     FileBatch { compression, unpacked_size, records: Records { Record { entry, content, … } Record … } }
 */
import { Buffer } from "node:buffer";
import { constants, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { sentence } from "../base/errors.ts";
import { encodeFields, lengthPrefix, WireError } from "../base/protobuf_fields.ts";
import { decodeEntry, type Entry, writeEntry } from "./entry.ts";
import { checkPath, TreeError } from "./names.ts";
import { WireReader, WireWriter } from "./wire_codec.ts";

/** Maximum content of one record, in bytes. A larger file is sent in parts. */
export const MAX_CONTENT_BYTES = 8 << 20;
/** Maximum unpacked size of a batch, in bytes. */
export const MAX_BATCH_BYTES = MAX_CONTENT_BYTES + (2 << 20);
/** A batch is full at this many bytes of records. */
const FULL_BYTES = 1 << 20;
/** Maximum number of records in a batch. */
const MAX_RECORDS = 100_000;
/** Maximum memory for unpacking a batch, as a power of two: 8 MiB, which zstd's level 19 needs. */
const MAX_WINDOW_LOG = 23;
/** A batch is sent compressed only if that saves at least a tenth. */
const WORTH = 0.9;
const Compression = { none: 0, zstd: 1 };

/** One change, or a part of a large file; see Record in tree.proto. */
export interface TreeRecord {
  entry?: Entry;
  content?: Uint8Array;
  more?: boolean;
  offset?: number;
  digest?: Uint8Array;
  remove?: string;
  copyFrom?: string;
}

/** Content that is read when it is encoded. */
export interface ContentToRead {
  readonly length: number;
  /** Fills a buffer of `length` bytes. */
  read(into: Uint8Array): void;
}

/** A record to be encoded. */
export type OutgoingRecord = Omit<TreeRecord, "content"> & { content?: Uint8Array | ContentToRead };

/** Upper bound for a record without its path and content, in bytes. */
const RECORD_EXTRA = 60;
/** Upper bound for the fields of a FileBatch before its records, with the records' tag and length. Bytes. */
const HEADER_BYTES = 24;

/** Encodes records into batches. */
export class BatchEncoder {
  readonly #full: number;
  readonly #records: WireWriter;
  #count = 0;
  /** Whether to compress batches where that helps. */
  compress = false;

  /** @param options.bytes Size at which a batch is full. @default 1 MiB */
  constructor(options: { bytes?: number } = {}) {
    this.#full = options.bytes ?? FULL_BYTES;
    this.#records = new WireWriter(this.#full + (1 << 16), HEADER_BYTES);
  }

  /**
   * Adds a record. Its content, at most {@link MAX_CONTENT_BYTES}, is copied or read. Throws a {@link TreeError} for a
   * path that names.ts cannot encode, and whatever reading the content throws; the record is then not added.
   *
   * @returns an encoded FileBatch when one is full
   */
  add(record: OutgoingRecord): Uint8Array | undefined {
    const { entry, content } = record;
    const expected = (content?.length ?? 0) + (entry ? entry.path.length + RECORD_EXTRA : 0);
    const { length } = this.#records;
    try {
      this.#records.message(1, (out) => {
        if (entry) out.message(1, () => writeEntry(out, entry));
        if (content instanceof Uint8Array) out.bytes(2, content);
        else if (content) out.filled(2, content.length, (into) => content.read(into));
        if (record.more) out.varint(3, 1);
        if (record.offset) out.varint(4, record.offset);
        if (record.digest) out.bytes(5, record.digest);
        if (record.remove) out.text(6, record.remove);
        if (record.copyFrom) out.text(7, record.copyFrom);
      }, expected);
    } catch (e) {
      this.#records.cut(length);
      throw e;
    }
    return ++this.#count >= MAX_RECORDS || this.#records.length >= this.#full ? this.flush() : undefined;
  }

  /** Takes back the memory of a batch that is no longer used, for the next batch. */
  reuse(batch: Uint8Array): void {
    this.#records.reuse(batch);
  }

  /** Encodes the records added so far; undefined if there are none. */
  flush(): Uint8Array | undefined {
    const size = this.#records.length;
    if (size === 0) return undefined;
    this.#count = 0;
    // The header goes into the headroom before the records, which saves a copy.
    if (!this.compress) return this.#records.finish(header(Compression.none, size, size));
    const records = this.#records.finish();
    const packed = zstdCompressSync(records, { params: { [constants.ZSTD_c_compressionLevel]: 1 } });
    const [compression, body] = packed.length <= size * WORTH
      ? [Compression.zstd, packed]
      : [Compression.none, records];
    const batch = Buffer.concat([header(compression, size, body.length), body]);
    this.#records.reuse(records);
    return batch;
  }
}

/** The fields of a FileBatch before its records, of which `length` bytes follow. */
function header(compression: number, unpackedSize: number, length: number): Buffer {
  return Buffer.concat([encodeFields([[1, compression], [2, unpackedSize]]), lengthPrefix(3, length)]);
}

/**
 * Decodes the records of a FileBatch. Contents are views of the message. Throws a {@link TreeError} for a batch that no
 * honest peer sends.
 */
export function decodeBatch(message: Uint8Array): TreeRecord[] {
  try {
    return decodeRecords(unpack(message));
  } catch (e) {
    if (e instanceof WireError) throw new TreeError(`a batch of files is malformed (${e.message})`);
    throw e;
  }
}

function unpack(message: Uint8Array): Uint8Array {
  let compression = 0, size = 0;
  let records: Uint8Array = new Uint8Array();
  const reader = new WireReader(message);
  while (reader.next()) {
    if (reader.field === 1) compression = reader.varint();
    else if (reader.field === 2) size = reader.varint();
    else if (reader.field === 3) records = reader.bytes();
    else reader.skip();
  }
  if (size > MAX_BATCH_BYTES) throw new TreeError(`a batch of ${size} bytes is larger than ${MAX_BATCH_BYTES} bytes`);
  if (compression === Compression.zstd) {
    try {
      // One byte more than announced is enough to detect a decompression bomb.
      records = zstdDecompressSync(records, {
        maxOutputLength: size + 1,
        params: { [constants.ZSTD_d_windowLogMax]: MAX_WINDOW_LOG },
      });
    } catch (e) {
      throw new TreeError(`a batch of files cannot be unpacked (${sentence(e)})`);
    }
  } else if (compression !== Compression.none) {
    throw new TreeError(`a batch of files is compressed in a way that is not known (${compression})`);
  }
  if (records.length !== size) throw new TreeError(`a batch of files says ${size} bytes, and has ${records.length}`);
  return records;
}

function decodeRecords(records: Uint8Array): TreeRecord[] {
  const decoded: TreeRecord[] = [];
  const reader = new WireReader(records);
  while (reader.next()) {
    if (reader.field !== 1) {
      reader.skip();
      continue;
    }
    if (decoded.length >= MAX_RECORDS) throw new TreeError(`a batch has more than ${MAX_RECORDS} records`);
    decoded.push(decodeRecord(reader.bytes()));
  }
  return decoded;
}

function decodeRecord(bytes: Uint8Array): TreeRecord {
  const record: TreeRecord = {};
  const reader = new WireReader(bytes);
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        record.entry = decodeEntry(reader.bytes());
        break;
      case 2:
        record.content = reader.bytes();
        break;
      case 3:
        record.more = reader.varint() !== 0;
        break;
      case 4:
        record.offset = reader.varint();
        break;
      case 5:
        record.digest = reader.copy();
        if (record.digest.length !== 32) throw new TreeError("a digest is not 32 bytes long");
        break;
      case 6:
        record.remove = reader.text();
        checkPath(record.remove);
        break;
      case 7:
        record.copyFrom = reader.text();
        checkPath(record.copyFrom);
        break;
      default:
        reader.skip();
    }
  }
  const { entry, content, more, offset = 0, remove, copyFrom } = record;
  if (offset > Number.MAX_SAFE_INTEGER) throw new TreeError("a part of a file begins nowhere");
  const hasContent = content !== undefined || more || offset > 0;
  if (remove !== undefined && (entry || hasContent || copyFrom !== undefined)) {
    throw new TreeError("a record both removes and makes something");
  }
  if (entry && entry.kind !== "file" && (hasContent || copyFrom !== undefined)) {
    throw new TreeError(`${JSON.stringify(entry.path)} is no file, but has content`);
  }
  if (copyFrom !== undefined && (!entry || hasContent)) {
    throw new TreeError("a record copies, and has content or no file");
  }
  return record;
}
