import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { cloudRegion } from "./cloud_metadata.ts";

/** A metadata server on loopback. */
async function withServer(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
  run: (address: string, seen: string[]) => Promise<void>,
): Promise<void> {
  const seen: string[] = [];
  const server = createServer((request, response) => {
    seen.push(`${request.method} ${request.url}`);
    answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await run(`127.0.0.1:${(server.address() as AddressInfo).port}`, seen);
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}

const not = (response: ServerResponse) => response.writeHead(404).end("not here");

function google(zone: string) {
  return ({ url, headers }: IncomingMessage, response: ServerResponse) =>
    url === "/computeMetadata/v1/instance/zone" && headers["metadata-flavor"] === "Google"
      ? response.writeHead(200, { "Metadata-Flavor": "Google" }).end(zone)
      : not(response);
}

function amazon({ url, method, headers }: IncomingMessage, response: ServerResponse): unknown {
  if (url === "/latest/api/token" && method === "PUT" && headers["x-aws-ec2-metadata-token-ttl-seconds"]) {
    return response.writeHead(200).end("token 1");
  }
  const isKnown = url === "/latest/meta-data/placement/region" && headers["x-aws-ec2-metadata-token"] === "token 1";
  return isKnown ? response.writeHead(200).end("eu-west-1\n") : not(response);
}

Deno.test("a machine of Google's is in the region of its zone", () =>
  withServer(google("projects/123/zones/europe-west1-b"), async (address) => {
    assert.equal(await cloudRegion(address), "europe-west1");
  }));

Deno.test("a machine of Amazon's says its region to who shows the session's token", () =>
  withServer(amazon, async (address, seen) => {
    assert.equal(await cloudRegion(address), "eu-west-1");
    assert(seen.includes("PUT /latest/api/token"));
  }));

Deno.test("whoever else answers there names no region", async () => {
  const portal = (_: IncomingMessage, response: ServerResponse) => response.writeHead(200).end("<html>Log in</html>");
  await withServer(portal, async (address) => assert.equal(await cloudRegion(address), undefined));
  for (const zone of ["", "projects/1/zones/../../etc-a", `projects/1/zones/${"x".repeat(100)}-a`, "europe-west1-b"]) {
    await withServer(google(zone), async (address) => assert.equal(await cloudRegion(address), undefined, zone));
  }
  const endless = (_: IncomingMessage, response: ServerResponse) => {
    response.writeHead(200, { "Metadata-Flavor": "Google" });
    response.end("x".repeat(1 << 20));
  };
  await withServer(endless, async (address) => assert.equal(await cloudRegion(address), undefined));
});

Deno.test("a server that is silent, or is not there, is waited for as long as was said and no longer", async () => {
  await withServer(() => {}, async (address) => {
    const began = performance.now();
    assert.equal(await cloudRegion(address, 50), undefined);
    assert(performance.now() - began < 5_000);
  });
  let free = "";
  await withServer(() => {}, (address) => Promise.resolve(void (free = address)));
  assert.equal(await cloudRegion(free), undefined);
});
