import { deepEqual, equal, match, throws } from "node:assert/strict";
import { Buffer } from "node:buffer";
import { PeerProcess } from "../../testing/peers.ts";
import { random, RawPeer } from "../../testing/pipe.ts";
import { Flag, FrameType, PREFACE } from "./frames.ts";
import { encodeHeaders, HpackDecoder, HpackError } from "./hpack.ts";

const bytes = (hex: string) => Buffer.from(hex.replaceAll(" ", ""), "hex");

function decode(...blocks: string[]): Record<string, string>[] {
  return decodeWith(new HpackDecoder(), ...blocks);
}

function decodeWith(decoder: HpackDecoder, ...blocks: string[]): Record<string, string>[] {
  return blocks.map((hex) => ({ ...decoder.decode(bytes(hex)) }));
}

Deno.test("each way to write one header is decoded, RFC 7541 C.2", () => {
  deepEqual(decode("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572"), [
    { "custom-key": "custom-header" },
  ]);
  deepEqual(decode("040c 2f73 616d 706c 652f 7061 7468"), [{ ":path": "/sample/path" }]);
  deepEqual(decode("1008 7061 7373 776f 7264 0673 6563 7265 74"), [{ password: "secret" }]);
  deepEqual(decode("82"), [{ ":method": "GET" }]);
});

Deno.test("requests with plain strings are decoded, RFC 7541 C.3", () => {
  const first = { ":method": "GET", ":scheme": "http", ":path": "/", ":authority": "www.example.com" };
  deepEqual(
    decode(
      "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
      "8286 84be 5808 6e6f 2d63 6163 6865",
      "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ),
    [
      first,
      { ...first, "cache-control": "no-cache" },
      { ...first, ":scheme": "https", ":path": "/index.html", "custom-key": "custom-value" },
    ],
  );
});

Deno.test("a full table drops its oldest entries, plain (RFC 7541 C.5) and compressed (C.6)", () => {
  const first = {
    ":status": "302",
    "cache-control": "private",
    date: "Mon, 21 Oct 2013 20:13:21 GMT",
    location: "https://www.example.com",
  };
  const expected = [first, { ...first, ":status": "307" }, {
    ...first,
    ":status": "200",
    date: "Mon, 21 Oct 2013 20:13:22 GMT",
    "content-encoding": "gzip",
    "set-cookie": "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
  }];
  const plain = decodeWith(
    new HpackDecoder(256),
    "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768" +
      "7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
    "4803 3330 37c1 c0bf",
    "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153" +
      "444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
  );
  deepEqual(plain, expected);
  const compressed = decodeWith(
    new HpackDecoder(256),
    "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8" +
      "e9ae 82ae 43d3",
    "4883 640e ffc1 c0bf",
    "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b" +
      "3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
  );
  deepEqual(compressed, expected);
});

Deno.test("an entry that is larger than the table empties it, and is not an error", () => {
  const decoder = new HpackDecoder(64);
  decodeWith(decoder, "4001 6101 62");
  deepEqual(decodeWith(decoder, "be"), [{ a: "b" }]);
  decodeWith(decoder, `4001 637f 00${"64".repeat(127)}`);
  throws(() => decodeWith(decoder, "be"), HpackError);
});

Deno.test("the table changes its size at a block's beginning only, and never beyond what was agreed", () => {
  const decoder = new HpackDecoder();
  deepEqual(decodeWith(decoder, "4001 6101 62", "be", "20 3f e1 1f 82"), [{ a: "b" }, { a: "b" }, {
    ":method": "GET",
  }]);
  throws(() => decodeWith(decoder, "be"), HpackError); // it was emptied
  throws(() => decode("3f e2 1f"), /larger than agreed/);
  throws(() => decode("82 20"), /amid a block/);
});

Deno.test("repeated names are joined, and bytes that are no UTF-8 are kept", () => {
  deepEqual(decode("0001 6101 62 0001 6101 63 0001 6201 ff"), [{ a: "b, c", b: "\u00ff" }]);
});

Deno.test("all truncations of a block, and a thousand blocks of random bytes, give headers or HpackError", () => {
  const whole = bytes(
    "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff 5a83 9bd9 ab77 ad94 e782 1dd7 f2e6 c7b3 35df dfcd 5b39",
  );
  const below = random(7541);
  const blocks = Array.from(whole, (_, i) => whole.subarray(0, i));
  for (let i = 0; i < 1000; i++) blocks.push(Buffer.from(Array.from({ length: below(200) }, () => below(256))));
  const decoder = new HpackDecoder();
  for (const block of blocks) {
    try {
      decoder.decode(block);
    } catch (e) {
      if (!(e instanceof HpackError)) throw e;
    }
  }
});

Deno.test("a small block that stands for a huge list is refused before the list is made", () => {
  const large = `40 01 61 7f 81 1d ${"62".repeat(3840)}`; // one entry of 3.8 kB, then a byte for each repetition
  throws(() => decode(large + "be".repeat(1 << 20)), /header list is too large/);
  throws(() => decode("00".repeat(3 << 16)), HpackError); // empty names and values count, too
  throws(() => decode("7f ff ff ff ff ff ff ff ff 7f"), HpackError);
});

Deno.test("what node:http2 encodes is decoded, request after request", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await using peer = new PeerProcess("node-encoder", String((listener.addr as Deno.NetAddr).port));
  using socket = await listener.accept();
  const raw = new RawPeer(socket);
  equal((await raw.take(PREFACE.length))?.compare(PREFACE), 0);
  await raw.settings();
  const decoder = new HpackDecoder();
  for (let i = 0; i < 20; i++) {
    const frame = await raw.nextOf(FrameType.HEADERS);
    equal(frame!.flags & Flag.PADDED, 0);
    const headers = decoder.decode(frame!.payload.subarray(frame!.flags & Flag.PRIORITY ? 5 : 0));
    match(headers[":authority"], /^127\.0\.0\.1:/);
    equal(headers[":path"], `/path/${i % 3}`);
    equal(headers["x-repeated"], "the same value, again and again");
    equal(headers["x-number"], String(i));
    equal(headers["x-never-indexed"], "secret");
    equal(headers["x-long"], "0123456789".repeat(i * 50));
  }
  void peer;
});

Deno.test("requests with compressed strings are decoded, RFC 7541 C.4", () => {
  const first = { ":method": "GET", ":scheme": "http", ":path": "/", ":authority": "www.example.com" };
  deepEqual(
    decode(
      "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
      "8286 84be 5886 a8eb 1064 9cbf",
      "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ),
    [
      first,
      { ...first, "cache-control": "no-cache" },
      { ...first, ":scheme": "https", ":path": "/index.html", "custom-key": "custom-value" },
    ],
  );
});

Deno.test("the response headers of a Bazel 2.1.0 server are decoded: its Netty compresses strings", () => {
  deepEqual(
    decode(
      "885f 8b1d 75d0 620d 263d 4c4d 6564 408a 9aca c8b1 6a21 e435 537f 8634 85a9 264f af40 8e9a cac8 b0c8 42d6 958b 510f 21aa 9b83" +
        "9bd9 ab",
    ),
    [{
      ":status": "200",
      "content-type": "application/grpc",
      "grpc-encoding": "identity",
      "grpc-accept-encoding": "gzip",
    }],
  );
});

Deno.test("what is encoded is decoded to the same, pseudo-headers first", () => {
  const headers = { "x-empty": "", ":path": "/a/b", "x-long": "v".repeat(1000), "x-bytes": "\u00ff\u0000" };
  const decoded = new HpackDecoder().decode(encodeHeaders(headers));
  deepEqual({ ...decoded }, headers);
  equal(Object.keys(decoded)[0], ":path");
});

Deno.test("wrong padding, strings that are cut short and unknown entries are refused", () => {
  for (const hex of ["0000 81 00", "0003 61", "ff00 ff", "00"]) throws(() => decode(hex), HpackError);
});
