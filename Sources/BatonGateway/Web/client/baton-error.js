export class BatonError extends Error {
  /** @param {string} code @param {string} message @param {object} [detail] */
  constructor(code, message, detail = {}) {
    super(message);
    this.name = 'BatonError';
    this.code = code;
    Object.assign(this, detail);
  }
}

/** Why a submission was refused, where the gateway did not say it. */
export const submitErrors = {
  ended: 'the session is closed on this device',
  too_many: 'too many inputs wait for their answer',
};

export function refusal({ reason, code, status, detail, error }) {
  if (error) return error;
  if (reason !== 'rejected') return undefined;
  const why = detail ?? {
    401: 'the token is missing, wrong or expired',
    4401: 'the token is missing, wrong or expired',
    403: 'the token does not allow this session',
    4403: 'the token does not allow this session',
  }[status ?? code];
  const what = status ? `HTTP status ${status}` : `close code ${code}`;
  return new BatonError('rejected', `the gateway refused this session: ${why ?? what}`, status ? { status } : { closeCode: code });
}
