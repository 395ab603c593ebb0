import { create, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { RunResponseSchema } from "../contract/gen/bazel/v1/command_server_pb.ts";
import { random } from "../testing/pipe.ts";
import {
  bytesValue,
  encodeFields,
  type Field,
  lengthPrefix,
  patchFields,
  scanFields,
  textValue,
  varintValue,
  WireError,
} from "./protobuf_fields.ts";

const fieldsOf = (message: Uint8Array) => {
  const fields: Field[] = [];
  scanFields(message, (f) => void fields.push(f));
  return fields;
};

/** A message of fields of every wire type, with numbers that no schema knows. */
function generate(below: (n: number) => number): { message: Buffer; fields: Buffer[]; numbers: number[] } {
  const varint = (value: number) => {
    const out = [];
    for (; value >= 128; value = Math.floor(value / 128)) out.push((value % 128) | 128);
    return Buffer.from([...out, value]);
  };
  const bytes = (n: number) => Buffer.from(Array.from({ length: n }, () => below(256)));
  const fields: Buffer[] = [], numbers: number[] = [];
  for (let i = below(12); i > 0; i--) {
    const number = 1 + below([8, 300, 2 ** 29 - 1][below(3)]), type = [0, 1, 2, 5][below(4)];
    const value = [
      () => varint(below(2 ** 31)),
      () => bytes(8),
      () => {
        const length = below([5, 300][below(2)]);
        return Buffer.concat([varint(length), bytes(length)]);
      },
      () => bytes(4),
    ][[0, 1, 2, 5].indexOf(type)]();
    fields.push(Buffer.concat([varint(number * 8 + type), value]));
    numbers.push(number);
  }
  return { message: Buffer.concat(fields), fields, numbers };
}

Deno.test("every field of a generated message is found where it is", () => {
  const below = random(1);
  for (let i = 0; i < 500; i++) {
    const { message, fields, numbers } = generate(below);
    const found = fieldsOf(message);
    assert.deepEqual(found.map((f) => f.number), numbers);
    assert.deepEqual(found.map((f) => message.subarray(f.start, f.end)), fields);
  }
});

Deno.test("patched fields get their new value, and all others keep every byte", () => {
  const below = random(2);
  for (let i = 0; i < 500; i++) {
    const { message, fields } = generate(below);
    const value = Buffer.alloc([0, 3, 200][below(3)], "v");
    const patched = Buffer.concat(patchFields(message, (f) => f.number % 2 === 1 ? value : undefined));
    const expected = fieldsOf(message).map((f, at) =>
      f.number % 2 === 1 && f.wireType === 2 ? Buffer.concat([lengthPrefix(f.number, value.length), value]) : fields[at]
    );
    assert.deepEqual(patched, Buffer.concat(expected));
    assert.deepEqual(Buffer.concat(patchFields(message, () => undefined)), message);
  }
});

Deno.test("what encodeFields writes is what the schema's own encoder writes", () => {
  assert.deepEqual(
    encodeFields([[1, "ü"], [2, Buffer.from([255, 0])], [3, ""], [4, true], [5, 300], [6, undefined], [7, false]]),
    Buffer.from(toBinary(
      RunResponseSchema,
      create(RunResponseSchema, { cookie: "ü", standardOutput: Uint8Array.of(255, 0), finished: true, exitCode: 300 }),
    )),
  );
});

Deno.test("values are read as what they are", () => {
  const message = encodeFields([[1, "text ü"], [2, Uint8Array.of(1, 2)], [300, 2 ** 40 + 1]]);
  const [text, bytes, number] = fieldsOf(message);
  assert.equal(textValue(message, text), "text ü");
  assert.deepEqual([...bytesValue(message, bytes)], [1, 2]);
  assert.equal(varintValue(message, number), 2 ** 40 + 1);
});

Deno.test("every truncation, and random bytes, are a message or a WireError", () => {
  const below = random(3);
  const attempt = (bytes: Uint8Array) => {
    try {
      for (const f of fieldsOf(bytes)) assert.ok(f.start < f.end && f.end <= bytes.length);
      patchFields(bytes, () => Buffer.from("x"));
    } catch (e) {
      if (!(e instanceof WireError)) throw e;
    }
  };
  const { message } = generate(random(4));
  for (let i = 0; i < message.length; i++) attempt(message.subarray(0, i));
  for (let i = 0; i < 5000; i++) attempt(Buffer.from(Array.from({ length: below(40) }, () => below(256))));
});

Deno.test("malformed messages are refused with what is wrong", () => {
  for (
    const [hex, why] of [
      ["0a05616263", /field 1 is cut short/],
      ["0aff", /varint is cut short/],
      ["08" + "ff".repeat(10) + "01", /longer than 10 bytes/],
      ["0affffffffffffffffff01", /cut short/],
      ["0900", /field 1 is cut short/],
      ["0b", /wire type 3/],
      ["0000", /field number 0/],
    ] as const
  ) assert.throws(() => scanFields(Buffer.from(hex, "hex"), () => {}), { name: "WireError", message: why });
});
