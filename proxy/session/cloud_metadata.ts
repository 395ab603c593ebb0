import { Buffer } from "node:buffer";
import { request } from "node:http";

/** The metadata server of Google's and Amazon's machines. Elsewhere nothing listens there. */
export const METADATA_SERVER = "169.254.169.254:80";
/** Timeout for an answer, in milliseconds. */
const TIMEOUT_MS = 300;
/** Maximum length of an answer, in bytes. */
const MAX_ANSWER = 4096;

/** The form of a cloud's region names. */
const REGION = /^[a-z0-9][a-z0-9-]{0,62}$/;

/**
 * The region of this cloud machine, from its metadata server: "europe-west1" (Google), "eu-west-1" (Amazon). Never
 * rejects.
 *
 * @param server "HOST:PORT".
 * @returns undefined if this is not a cloud machine, or the server does not answer in time
 */
export async function cloudRegion(server = METADATA_SERVER, timeoutMs = TIMEOUT_MS): Promise<string | undefined> {
  const signal = AbortSignal.timeout(timeoutMs);
  const ask = (path: string, headers: Record<string, string>, method = "GET") =>
    call({ server, path, headers, method, signal });
  const [google, amazon] = await Promise.all(
    [googleRegion(ask), amazonRegion(ask)].map((r) => r.catch(() => undefined)),
  );
  return google ?? amazon;
}

interface Answer {
  headers: Record<string, unknown>;
  text: string;
}

type Ask = (path: string, headers: Record<string, string>, method?: string) => Promise<Answer>;

async function googleRegion(ask: Ask): Promise<string | undefined> {
  const { headers, text } = await ask("/computeMetadata/v1/instance/zone", { "Metadata-Flavor": "Google" });
  // Other servers at this address do not send this header.
  if (headers["metadata-flavor"] !== "Google") return undefined;
  return asRegion(/^projects\/\d+\/zones\/(.+)-[a-z]$/.exec(text)?.[1]);
}

async function amazonRegion(ask: Ask): Promise<string | undefined> {
  const { text: token } = await ask("/latest/api/token", { "X-aws-ec2-metadata-token-ttl-seconds": "60" }, "PUT");
  const { text } = await ask("/latest/meta-data/placement/region", { "X-aws-ec2-metadata-token": token });
  return asRegion(text);
}

function asRegion(text: string | undefined): string | undefined {
  return text !== undefined && REGION.test(text) ? text : undefined;
}

/**
 * Makes one HTTP request, by node:http, which ignores the proxies in the user's environment. Rejects unless the status
 * is 200.
 */
function call(
  { server, path, headers, method, signal }: {
    server: string;
    path: string;
    headers: Record<string, string>;
    method: string;
    signal: AbortSignal;
  },
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request(`http://${server}${path}`, { headers, method, signal, agent: false }, (response) => {
      const parts: Buffer[] = [];
      let size = 0;
      response.on("error", reject);
      response.on("data", (part: Buffer) => {
        parts.push(part);
        if ((size += part.length) > MAX_ANSWER) sent.destroy(new Error("the answer is too long"));
      });
      response.on("end", () => {
        if (response.statusCode !== 200) return reject(new Error(`status ${response.statusCode}`));
        resolve({ headers: response.headers, text: Buffer.concat(parts).toString().trim() });
      });
    });
    sent.on("error", reject);
    sent.end();
  });
}
