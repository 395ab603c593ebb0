/** An orchestrator for agents under test: all that it does is to certify them. */
import { Identity as IdentityService } from "../contract/gen/rbs/v1/identity_pb.ts";
import type { Credentials } from "../identity/credentials.ts";
import type { Identity } from "../identity/spiffe.ts";
import { Code, RpcError } from "../transport/rpc/client.ts";
import { RpcServer } from "../transport/rpc/server.ts";
import { type CertificateOptions, TestAuthority, TRUST_DOMAIN } from "./certificates.ts";
import { orchestratorCredentials, testAuthority } from "./keys.ts";

/** See the file's head. Whatever token it is shown is good for `identity`, once. */
export class TestIssuer implements AsyncDisposable {
  readonly #server: RpcServer;
  readonly authority: TestAuthority;
  /** "host:port". */
  readonly address: string;
  /** How often a certificate was asked for again. */
  renewals = 0;

  private constructor(server: RpcServer, authority: TestAuthority, address: string) {
    this.#server = server;
    this.authority = authority;
    this.address = address;
  }

  /** @param options What its certificates say beside who it is. */
  static async start(identity: Identity, options: CertificateOptions = {}): Promise<TestIssuer> {
    const authority = await testAuthority();
    const used = new Set<string>();
    const certified = async (certificateRequest: Uint8Array) => ({
      certificate: await authority.certifyRequest(certificateRequest, identity, options),
      authorities: authority.certificate,
    });
    const server = new RpcServer({
      address: "127.0.0.1:0",
      credentials: await orchestratorCredentials(),
      admitStrangers: true,
      authorize() {},
    }).add(IdentityService, {
      issueCertificate: ({ certificateRequest, token }) => {
        if (used.has(token)) return Promise.reject(new RpcError(Code.UNAUTHENTICATED, "the token was used"));
        used.add(token);
        return certified(certificateRequest);
      },
      renewCertificate: ({ certificateRequest }, context) => {
        if (context.identity === undefined) return Promise.reject(new RpcError(Code.UNAUTHENTICATED, "a stranger"));
        issuer.renewals++;
        return certified(certificateRequest);
      },
    });
    const issuer = new TestIssuer(server, authority, `127.0.0.1:${await server.listen()}`);
    return issuer;
  }

  /** What an AgentSpec says of it. */
  spec(token = "token") {
    return {
      orchestratorAddress: this.address,
      bootstrapToken: token,
      authorities: this.authority.certificate,
      trustDomain: TRUST_DOMAIN,
    };
  }

  /** As whom the orchestrator and a user call. */
  credentials(identity: Identity): Promise<Credentials> {
    return this.authority.identify(identity);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
  }
}
