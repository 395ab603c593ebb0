/**
 * HPACK, the header compression of HTTP/2 (RFC 7541). Decoding is complete. Encoding uses only literals that are
 * neither indexed nor compressed: every peer must accept them, and they need no state.
 */
import { Buffer } from "node:buffer";

/** A header list by lower-case name; pseudo-headers keep their colon. Repeated names are joined by ", ". */
export type Headers = Record<string, string>;

/** A header block is not HPACK, or exceeds a limit. The connection cannot continue. */
export class HpackError extends Error {
  override readonly name = "HpackError";
}

/** RFC 7541, appendix A. */
const STATIC_TABLE: readonly (readonly [string, string])[] = [
  ":authority",
  ":method=GET",
  ":method=POST",
  ":path=/",
  ":path=/index.html",
  ":scheme=http",
  ":scheme=https",
  ":status=200",
  ":status=204",
  ":status=206",
  ":status=304",
  ":status=400",
  ":status=404",
  ":status=500",
  "accept-charset",
  "accept-encoding=gzip, deflate",
  ..."accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control".split(
    " ",
  ),
  ..."content-disposition content-encoding content-language content-length content-location content-range".split(" "),
  ..."content-type cookie date etag expect expires from host if-match if-modified-since if-none-match if-range".split(
    " ",
  ),
  ..."if-unmodified-since last-modified link location max-forwards proxy-authenticate proxy-authorization range".split(
    " ",
  ),
  ..."referer refresh retry-after server set-cookie strict-transport-security transfer-encoding user-agent vary".split(
    " ",
  ),
  "via",
  "www-authenticate",
].map((entry) => {
  const at = entry.indexOf("=");
  return at < 0 ? [entry, ""] : [entry.slice(0, at), entry.slice(at + 1)];
});

/**
 * Code lengths in bits for bytes 0 to 255 and the end mark, as base-36 digits (RFC 7541, appendix B). The code is
 * canonical: codes of equal length are numbered in byte order, so the lengths define it.
 */
const HUFFMAN_LENGTHS =
  "dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6cad67777777777777777777777878djde6f56565666577666567655677777fbeds" +
  "kmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmolmnnllmlnmnnkmmmnmmnqqkjmnmpqqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrqu";

/**
 * The Huffman code as a binary tree: node i has its children at 2i and 2i+1. A leaf is -1 - byte; 0 means no child.
 */
let huffmanTree: Int16Array | undefined;
function huffman(): Int16Array {
  if (huffmanTree) return huffmanTree;
  const tree = new Int16Array(2 * 512);
  const lengths = [...HUFFMAN_LENGTHS].map((c) => parseInt(c, 36));
  const order = lengths.map((_, i) => i).sort((a, b) => lengths[a] - lengths[b] || a - b);
  let nodes = 1, code = 0, length = 0;
  for (const symbol of order) {
    code *= 2 ** (lengths[symbol] - length);
    length = lengths[symbol];
    let node = 0;
    for (let bit = length - 1; bit >= 0; bit--) {
      const at = 2 * node + (Math.floor(code / 2 ** bit) & 1);
      if (bit === 0) tree[at] = -1 - symbol;
      else node = tree[at] ||= nodes++;
    }
    code++;
  }
  return huffmanTree = tree;
}

function huffmanDecode(bytes: Uint8Array): string {
  const tree = huffman();
  const out: number[] = [];
  let node = 0, depth = 0, ones = true;
  for (const byte of bytes) {
    for (let bit = 7; bit >= 0; bit--) {
      const one = (byte >> bit) & 1;
      const next = tree[2 * node + one];
      depth++;
      ones &&= one === 1;
      if (next < 0) {
        if (next === -257) throw new HpackError("an end mark within a string");
        out.push(-1 - next);
        node = depth = 0;
        ones = true;
      } else node = next;
    }
  }
  // The rest must be padding: fewer than 8 bits, all ones.
  if (depth > 7 || !ones) throw new HpackError("wrong padding of a compressed string");
  return Buffer.from(out).toString("latin1");
}

/** Decodes the header blocks of one direction of a connection, in order. */
export class HpackDecoder {
  /** Newest first. */
  readonly #dynamic: [string, string][] = [];
  #size = 0;
  #capacity: number;
  readonly #maxCapacity: number;
  #listBytes = 0;

  /** @param capacity Maximum size of the dynamic table, in bytes. */
  constructor(capacity = 4096) {
    this.#capacity = this.#maxCapacity = capacity;
  }

  /** Size of the last decoded list, in bytes: names, values and 32 for each header. */
  get listBytes(): number {
    return this.#listBytes;
  }

  /**
   * Decodes a header block. Throws {@link HpackError}. Stops compression bombs while it decodes: a repeated entry
   * counts each time, before it is stored.
   *
   * @param maxListBytes Maximum size of the list, in bytes as in {@link listBytes}.
   * @param maxHeaders Maximum number of headers.
   */
  decode(block: Uint8Array, maxListBytes: number = 1 << 17, maxHeaders = 256): Headers {
    const headers: Headers = Object.create(null);
    let at = 0, listBytes = 0, count = 0;
    const integer = (prefixBits: number): number => {
      const mask = (1 << prefixBits) - 1;
      let value = block[at++] & mask;
      if (value < mask) return value;
      for (let scale = 1;; scale *= 128) {
        if (at >= block.length || scale > 2 ** 28) throw new HpackError("a number is cut short or too large");
        const byte = block[at++];
        value += (byte & 127) * scale;
        if (byte < 128) return value;
      }
    };
    const text = (): string => {
      if (at >= block.length) throw new HpackError("a string is missing");
      const compressed = (block[at] & 128) !== 0;
      const length = integer(7);
      if (at + length > block.length) throw new HpackError("a string is cut short");
      const bytes = block.subarray(at, at += length);
      return compressed ? huffmanDecode(bytes) : Buffer.from(bytes.buffer, bytes.byteOffset, length).toString("latin1");
    };
    const entry = (index: number): readonly [string, string] => {
      const found = index <= STATIC_TABLE.length
        ? STATIC_TABLE[index - 1]
        : this.#dynamic[index - 1 - STATIC_TABLE.length];
      if (!found) throw new HpackError(`no entry ${index} in the table`);
      return found;
    };
    while (at < block.length) {
      const first = block[at];
      let name: string, value: string;
      if (first & 128) [name, value] = entry(integer(7));
      else if ((first & 224) === 32) {
        const capacity = integer(5);
        if (capacity > this.#maxCapacity) throw new HpackError("the table is made larger than agreed");
        if (count > 0) throw new HpackError("the table changes its size amid a block");
        this.#capacity = capacity;
        this.#evict(0);
        continue;
      } else {
        const indexed = (first & 64) !== 0;
        const index = integer(indexed ? 6 : 4);
        name = index ? entry(index)[0] : text();
        value = text();
        if (indexed) this.#add(name, value);
      }
      count++;
      listBytes += name.length + value.length + 32;
      if (listBytes > maxListBytes || count > maxHeaders) throw new HpackError("the header list is too large");
      headers[name] = name in headers ? `${headers[name]}, ${value}` : value;
    }
    this.#listBytes = listBytes;
    return headers;
  }

  #add(name: string, value: string): void {
    const size = name.length + value.length + 32;
    this.#evict(size);
    if (size > this.#capacity) return;
    this.#dynamic.unshift([name, value]);
    this.#size += size;
  }

  #evict(room: number): void {
    while (this.#size + room > this.#capacity && this.#dynamic.length > 0) {
      const [name, value] = this.#dynamic.pop()!;
      this.#size -= name.length + value.length + 32;
    }
  }
}

/** Encodes a header list. Pseudo-headers come first, as HTTP/2 requires. */
export function encodeHeaders(headers: Headers): Uint8Array {
  const parts: Uint8Array[] = [];
  const integer = (value: number, prefixBits: number) => {
    const mask = (1 << prefixBits) - 1;
    if (value < mask) return parts.push(Uint8Array.of(value));
    const bytes = [mask];
    for (value -= mask; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
    bytes.push(value);
    parts.push(Uint8Array.from(bytes));
  };
  const text = (s: string) => {
    const bytes = Buffer.from(s, "latin1");
    integer(bytes.length, 7);
    parts.push(bytes);
  };
  const entries = Object.entries(headers);
  for (const pseudo of [true, false]) {
    for (const [name, value] of entries) {
      if (name.startsWith(":") !== pseudo) continue;
      parts.push(Uint8Array.of(0));
      text(name);
      text(value);
    }
  }
  return Buffer.concat(parts);
}
