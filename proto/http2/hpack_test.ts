import { deepEqual, equal, throws } from "node:assert/strict";
import { Buffer } from "node:buffer";
import { encodeHeaders, HpackDecoder, HpackError } from "./hpack.ts";

function decode(...blocks: string[]): Record<string, string>[] {
  const decoder = new HpackDecoder();
  return blocks.map((hex) => ({ ...decoder.decode(Buffer.from(hex.replaceAll(" ", ""), "hex")) }));
}

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

Deno.test("a response with dates, a redirect and a cookie is decoded, RFC 7541 C.6.1", () => {
  deepEqual(
    decode(
      "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8" +
        "e9ae 82ae 43d3",
    ),
    [{
      ":status": "302",
      "cache-control": "private",
      date: "Mon, 21 Oct 2013 20:13:21 GMT",
      location: "https://www.example.com",
    }],
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
