/**
 * What a refusal can mean, and the rules that hold whoever the provider is. Data only: `lib/providers/classify.ts`
 * applies it, after the provider's own rules in `lib/providers/catalog.ts`.
 */
import { DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS } from "../core/clock.ts";
import type { FaultScope, Pause, Scope } from "./verdict.ts";

/** What a refusal is, before the answer's own time, scope and reason are filled in. */
export type Ruling =
  | { readonly kind: "rejected" }
  /** Without a scope or a wait: the provider's usual one. */
  | {
      readonly kind: "rate_limited";
      readonly reason: "rate_limit" | "concurrency";
      readonly scope?: Scope;
      readonly wait?: Wait;
    }
  | {
      readonly kind: "exhausted";
      readonly reason: "quota_day" | "billing";
      /** Without it the provider's usual one for limits, or for money. */
      readonly scope?: Scope;
      readonly wait: Wait;
    }
  | { readonly kind: "revoked"; readonly certain: boolean }
  | { readonly kind: "unsuited"; readonly scope: Scope }
  /**
   * `scope`: without it every model's. `refusesAll`: our address is refused, whatever the key. `elseMs`: for how long
   * where no time is named.
   */
  | {
      readonly kind: "overloaded";
      readonly scope?: FaultScope;
      readonly refusesAll?: true;
      readonly elseMs?: number;
    };

/** Turns the time that the answer named (null: none) into a pause. */
export type Wait = (namedMs: number | null, now: number, resetZone: string) => Pause;

/** One thing known. Every condition that is written must hold; the first rule that holds decides. */
export interface RefusalRule {
  readonly status?: number | readonly number[];
  /** One of the answer's code-like words, which are in lower case. */
  readonly code?: RegExp;
  /** The answer's sentences, one a line; of several patterns one. Under a 400 anchored: a body may echo the prompt. */
  readonly text?: RegExp | readonly RegExp[];
  /** None of the answer's sentences is like this. */
  readonly unless?: RegExp;
  /** A field of any of the answer's JSON objects; lists and objects read as `present`. */
  readonly field?: readonly [name: string, value: RegExp];
  readonly header?: readonly [name: string, value: RegExp];
  /** HTML or an edge's line instead of the provider's own answer. */
  readonly page?: true;
  /** The answer names a wait, and at least this long a one. */
  readonly namedAtLeastMs?: number;
  readonly then: Ruling;
}

// ------------------------------------------------------------------ waits

export const forMs = (ms: number): Pause => ({ kind: "for", ms });

/** As the answer says, else unknown. */
export const asNamed: Wait = (namedMs) => (namedMs === null ? { kind: "unknown" } : forMs(namedMs));

/** To the end of the provider's day, whatever the answer says. */
export const untilDayEnds: Wait = (_namedMs, _now, resetZone) => ({
  kind: "until_midnight",
  zone: resetZone,
});

export const namedOrMidnight: Wait = (namedMs, now, resetZone) =>
  namedMs === null ? untilDayEnds(null, now, resetZone) : forMs(namedMs);

export const namedOr =
  (elseMs: number): Wait =>
  (namedMs) =>
    forMs(namedMs ?? elseMs);

/** A wait that only makes sense when it is short: longer ones are lies. */
export const namedUpTo =
  (longestMs: number): Wait =>
  (namedMs) =>
    namedMs === null ? { kind: "unknown" } : forMs(Math.min(namedMs, longestMs));

/** A cap on requests at once frees up when one ends: `retry-after: 0` and 1 mean "soon", not "in a storm". */
const namedSoon: Wait = (namedMs) =>
  namedMs === null ? { kind: "unknown" } : forMs(Math.max(namedMs, SECOND_MS));

/** An empty account does not fill up in seconds: a short wait beside it is the server's boilerplate. */
const namedIfLong: Wait = (namedMs) =>
  namedMs !== null && namedMs >= 5 * MINUTE_MS ? forMs(namedMs) : { kind: "unknown" };

/** To the end of the wall-clock minute; at least a second, as our clock is not theirs. */
export const namedOrEndOfMinute: Wait = (namedMs, now) =>
  forMs(namedMs ?? Math.max(SECOND_MS, MINUTE_MS - (now % MINUTE_MS)));

/** To Monday 00:00 UTC. 1 January 1970 was a Thursday. */
export const untilMonday: Wait = (_namedMs, now) => forMs(7 * DAY_MS - ((now + 3 * DAY_MS) % (7 * DAY_MS)));

/** To the first of the next month, 00:00 UTC. */
export const untilNextMonth: Wait = (_namedMs, now) => {
  const today = new Date(now);
  return forMs(Date.UTC(today.getUTCFullYear(), today.getUTCMonth() + 1) - now);
};

// ---------------------------------------------------------------- rulings

export const REJECTED: Ruling = { kind: "rejected" };
/** Upstream is short of capacity, whoever asks. */
export const CAPACITY: Ruling = { kind: "overloaded" };
/** The same, and the answer says that it is about this one model. */
export const CAPACITY_MODEL: Ruling = { kind: "overloaded", scope: "model" };
/** A limit on our address: no key and no model gets through. */
export const TOO_FAST_FOR_ALL: Ruling = { kind: "overloaded", refusesAll: true, elseMs: 30 * SECOND_MS };
export const TOO_FAST: Ruling = { kind: "rate_limited", reason: "rate_limit" };
export const TOO_FAST_KEY: Ruling = { ...TOO_FAST, scope: "key" };
export const TOO_FAST_MODEL: Ruling = { ...TOO_FAST, scope: "key+model" };
export const TOO_MANY_AT_ONCE: Ruling = {
  kind: "rate_limited",
  reason: "concurrency",
  wait: namedSoon,
};
/**
 * A gateway behind which the model is full, in the words of a limit: the model rests on this key for a moment. It names
 * a time, so that keys which are refused alike are not taken for a limit of everybody.
 */
const BUSY_MODEL: Ruling = { ...TOO_FAST_MODEL, wait: namedOr(15 * SECOND_MS) };
/** The day (or another long window) is used up. */
export const DAY: Ruling = { kind: "exhausted", reason: "quota_day", wait: namedOrMidnight };
export const DAY_KEY: Ruling = { ...DAY, scope: "key" };
export const DAY_MODEL: Ruling = { ...DAY, scope: "key+model" };
/** A week, a month or another window of unknown length: asked again a few times a day. */
const LONG_WINDOW: Ruling = { ...DAY, wait: namedOr(6 * HOUR_MS) };
/** A window of some hours. */
const HOURS_WINDOW: Ruling = { ...DAY, wait: namedOr(HOUR_MS) };
/** Out of money, in words that anybody may use: for what, the provider's `moneyScope` says. */
export const NO_MONEY: Ruling = { kind: "exhausted", reason: "billing", wait: namedIfLong };
/** Out of money, in words that are known to mean the account. */
export const NO_MONEY_KEY: Ruling = { ...NO_MONEY, scope: "key" };
export const NO_MONEY_MODEL: Ruling = { ...NO_MONEY, scope: "key+model" };
export const DEAD: Ruling = { kind: "revoked", certain: true };
/** Refused, but the same answer was seen on good keys. */
export const DOUBTED: Ruling = { kind: "revoked", certain: false };
export const UNSUITED_MODEL: Ruling = { kind: "unsuited", scope: "key+model" };
export const UNSUITED_KEY: Ruling = { kind: "unsuited", scope: "key" };

/** A file or another thing of an account that was asked for: another account may have it, and all models go on. */
const THING =
  "(?:files?|cached ?contents?|corp(?:us|ora)|vector ?stores?|assistants?|threads?|batch(?:es)?|containers?|uploads?|datasets?|conversations?)";
export const NO_THING: RefusalRule = {
  status: 403,
  text: new RegExp(
    String.raw`\b${THING}\b[^.\n]{0,60}\b(?:not found|not exist|permission|access|belong)|\b(?:permission|access)\b[^.\n]{0,30}\b${THING}\b`,
    "i",
  ),
  then: UNSUITED_KEY,
};

/** "…does not exist or you do not have access to it": absent or gated, another account may have it. */
export const GATED_MODEL: RefusalRule = {
  status: 404,
  text: /\bmodel\b.{0,160}\b(?:access|permission denied|inaccessible)\b/i,
  then: UNSUITED_MODEL,
};

// ----------------------------------------------------------- words for all

// A new phrase is one line here and one row of a test. Phrases are in lower case and matched without regard to it.

/** Codes that mean money and nothing else, under any status. */
const MONEY_CODES = [
  "insufficient_?(?:user_?|account_?|token_?)?(?:quota|balance|credits?|funds)", // OpenAI, new-api (Nov 2026)
  "pre_consume_token_quota_failed", // new-api, Nov 2026
  "not_?enough_?(?:balance|credits?|funds|quota)", // Nov 2026
  "(?:no|out_of|insufficient)_?(?:credits?|funds|money)(?:_?error)?",
  "(?:credits?|billing|balance|payment)_?error", // OpenCode Zen's `CreditsError`, Anthropic's `billing_error`
  "billing_hard_limit_reached|billing_not_active|billing_limit_(?:reached|exceeded)", // OpenAI; also its 400 for images
  "budget_?exceeded|over_?budget|exceeded_?(?:token_?)?budget|exceeded_current_quota(?:_error)?", // LiteLLM, under 400 and 429 (Nov 2026)
  "(?:credit_?)?balance_?(?:too_?low|insufficient|not_?enough|exhausted|depleted)",
  "spend(?:ing)?_?(?:limit|cap)_?(?:reached|exceeded)|(?:enforced|monthly)_?spend(?:ing)?_?limit(?:_?reached)?",
  "payment_?required|account_?overdue(?:_?error)?|arrearage|account_?(?:in_?)?arrears?",
];

const MONEY_ABROAD =
  "\\bsaldo|\\bcr[eé]dit|\\bfond(?:[oi]?s|i|uri)\\b|\\bfundos|\\bsolde|\\bsold\\b|guthaben|kontostand|tegoed|bakiye|\\bkredi|środk|zůstat|zostat|prost[rř]i?edk|sredst|egyenleg|\\bmedel\\b|\\bmidler\\b|\\bbaki\\b|balanse|số dư|tiền|средств|наличност|баланс|кредит|денег|деньги|кошт|грош|υπόλοιπο|πίστωσ|رصيد|موجودی|اعتبار|بیلنس|יתרה|קרדיט|शेष|बैलेंस|क्रेडिट|ব্যালেন্স|ยอดเงิน|ยอดคงเหลือ|เครดิต|残高|クレジット|잔액|크레딧|잔고";
const LACKING_ABROAD =
  "insuficient|insuffisant|insufficient[ei]|agotad|agotó|acab(?:ó|ou|aram)|esgot(?:ad|ou|aram)|épuisé|epuizat|esaurit|\\b(?:sin|sem|sans|senza|plus de|kein|brak|pas (?:assez|suffisamment) de|no (?:tienes?|hay|dispone)|não (?:tem|há|possui)) |aufgebraucht|erschöpft|reicht nicht|unzureichend|nicht (?:genügend|genug|ausreichend)|zu niedrig|onvoldoende|niewystarcz|wyczerpa|nedostat|vyčerp|nedovolj|elégtelen|\\bn(?:incs|em) eleg|elfogy|otillräcklig|utilstr[æe]kkelig|ei riitä|riittämät|hindi sapat|tidak (?:men)?cukup|không đủ|hết|yetersiz|yeterli|tüken|bitti|недостат|не хват|не вистач|законч|закінч|исчерпан|вичерпан|изчерпан|отрицательн|(?:^|[^а-я])(?:нет|немає|няма) |ανεπαρκ|δεν επαρκ|εξαντλ|غير كاف|لا (?:يكفي|يوجد)|ليس لديك|نفد|کافی نیست|ناکافی|تمام شد|אין |לא מספיק|אינה? מספיק|अपर्याप्त|पर्याप्त नहीं|समाप्त|অপর্যাপ্ত|ไม่เพียงพอ|ไม่พอ|หมด|不足|足りません|使い切|ゼロ|が ?0|부족|소진|없습니다|모두 사용";

/** Sentences that mean money. None of them is ever said of a rate. */
const MONEY_PHRASES = [
  "\\b(?:insufficient|not enough) (?:account |user |wallet |token |remaining |available )?(?:balance|credits?|funds|quota|money)\\b",
  "\\b(?:balance|credits?|funds|wallet|(?:token|user) quota) (?:is |are |has |have |has been |have been )?(?:too low|insufficient|exhausted|depleted|used up|negative|not enough|not sufficient|empty|run out)\\b",
  "\\bdepleted (?:your|all|the)\\b|\\b(?:out of|no (?:more |remaining )?) ?(?:credits?|money|funds)\\b|\\bno (?:remaining|available) balance\\b|\\bused (?:up )?(?:all )?(?:of )?(?:available|your|the) (?:\\w{1,16} )?credits\\b",
  "\\b(?:do|does)(?: not|n't) have (?:enough|sufficient|any) (?:\\w{1,20} )?(?:balance|credits?|funds|quota)\\b", // Stability
  "\\bexhausted (?:your|the|all)\\b[^.\\n]{0,30}\\b(?:credits?|trial|balance|funds)\\b|\\bover budget\\b",
  "\\brequires? more credits\\b|\\bno credit (?:left|remaining)\\b",
  "\\bspend(?:ing)? (?:limit|cap)\\b|\\bbilling (?:hard )?limit\\b|\\b(?:limit|cap|budget)(?: reached:?| exceeded:?| of)? [$€£] ?\\d", // xAI, Google (Nov 2026)
  "\\bbudget (?:has been |was |is |limit )?exceeded\\b|\\bexceeded (?:your|its|the|their) (?:\\w{1,20} ){0,2}budget\\b",
  "\\baccount is not active\\b|\\bpast due\\b|\\bin arrears\\b|\\boverdue (?:payment|balance|bill)\\b|\\bpayment (?:is )?overdue\\b|\\bunpaid (?:invoice|bill|balance)s?\\b",
  "\\b(?:no|add|enter|provide|update|invalid|valid|missing) (?:an? |your )?(?:\\w{1,16} )?payment method\\b|\\bpayment method (?:is )?(?:required|missing)\\b|\\bpayment required\\b|\\bvalid credit card\\b", // Deep Infra, Vercel
  "\\bbilling (?:account )?(?:is |has been |was )?(?:disabled|closed|suspended|not (?:enabled|active|configured|set up))\\b|\\brequires billing\\b",
  "\\b(?:inactive|no active) subscription\\b|\\b(?:subscription|plan) (?:has |is |was )?(?:expired|ended|not active|inactive|cancelled)\\b", // Mistral
  "\\bplease (?:recharge|top[- ]?up|(?:add|buy|purchase) (?:more )?(?:credits?|funds|tokens))\\b|\\btop up your\\b",
  "\\btrial (?:quota |credits? |period )?(?:has |have )?(?:been )?(?:exhausted|ended|expired|used up)\\b",
  "余额不足|餘額不足|额度不足|額度不足|配额不足|点数不足|积分不足|余额已用|余额为[负0零]|(?:余额|额度)不够|(?:已无|没有)(?:可用)?(?:额度|余额)|资金不足", // new-api, SiliconFlow (Nov 2026)
  "(?:额度|余额|積分|积分)(?:已经|已)?(?:用尽|用完|耗尽)|欠费|欠費|请充值|請充值|请先充值|停机|(?:资源包|套餐)[^\\n]{0,8}(?:用尽|用完|不足|耗尽)|余量(?:已)?(?:用尽|不足)",
  // In other languages: what is short, and that it is, in either order.
  `(?:${MONEY_ABROAD})[^.\\n]{0,24}(?:${LACKING_ABROAD})|(?:${LACKING_ABROAD})[^.\\n]{0,16}(?:${MONEY_ABROAD})`,
  "残高がありません|チャージしてください|支払い方法|충전해 ?주세요|결제(?: ?수단|가 필요)|пополните|поповніть|اشحن|شحن رصيد|doładuj|\\brecargue|límites? de (?:gastos?|crédito)|limites? de (?:gastos?|dépenses)|harcama limit|ausgabenlimit|método de pag|moyen de paiement|zahlungs(?:methode|mittel)",
];

/** A day, in codes and sentences about limits. */
const DAY_PHRASES = [
  "\\bper[-_ ]?day\\b|\\b(?:a|each|every) day\\b|\\bdaily\\b|\\bper 86400s|\\b[rt]pd\\b|\\btoday'?s (?:quota|limit|allowance)\\b|\\btoday\\b|\\bfor the day\\b|/ ?(?:day|24 ?h)\\b|\\bmidnight\\b",
  "\\b24[- ]?(?:h|hrs?|hours?)\\b (?:period|window|limit|quota)|\\b(?:last|past|rolling|in|per|every|any) 24[- ]?(?:h|hrs?|hours?)\\b",
  "\\btomorrow\\b",
  "每日|每天|当日|當日|今日|今天|单日|單日|日限额|1日(?:あたり|の)|하루|일일",
  "\\bdi[aá]ri[oa]s?\\b|\\bpor día\\b|\\bpor dia\\b|\\bpro tag\\b|\\bt[aä]g(?:lich|eslimit)|\\bquotidien|\\bjournali|\\bpar jour\\b|\\bgiornalier|\\bdagelijks|günlük|дневн|суточн|в день|в сутки|本日",
];
const LONG_PHRASES = [
  "\\bweekly\\b|\\bper[-_ ]?week\\b|\\b(?:a|each|every|this) week\\b|\\b7[- ]?days?\\b|/ ?week\\b",
  "\\bmonthly\\b|\\bper[-_ ]?month\\b|\\b(?:a|each|every|this) month\\b|\\b30[- ]?days?\\b|\\bnext month\\b|\\bbilling (?:cycle|period)\\b|/ ?month\\b",
  "每周|每週|本周|本週|一周|周限额|每月|本月|当月|月度|月限额|週間|毎月|月間|매주|주간|매월|월간",
  "\\bsemanal|\\bw(?:öchentlich|ochenlimit)|\\bhebdomadaire|\\bsettimanal|\\bmens(?:al|il|ual|uel)|\\bmonat(?:lich|slimit)|haftalık|aylık|недельн|месячн|今月|今週",
];
/** "5-hour usage limit": a window of a subscription. */
const HOURS_PHRASES = [
  "\\b\\d{1,2}[- ]?hours?\\b (?:\\w{1,16} ){0,2}(?:limit|quota|window|allowance)|\\busage limit reached for \\d{1,2} hours?\\b|\\bsession (?:usage )?limit\\b",
  "\\d{1,2} ?(?:个)?小时.{0,8}(?:额度|限额|上限|配额)",
];

/** Codes of limits that speak of a day, or of a longer window. */
const DAY_CODES = /(?:^|[_-])(?:per_?day|daily|day|rpd|tpd)(?:[_-]|$)|perday/;
const LONG_CODES = /(?:^|[_-])(?:per_?)?(?:week|weekly|month|monthly)(?:[_-]|$)/;

/** Busy, saturated, overloaded: it passes, whatever code stands beside it. */
const BUSY_PHRASES = [
  "\\boverloaded\\b|\\b(?:over|at|insufficient|out of) capacity\\b|\\bcapacity (?:temporarily )?exceeded\\b|\\bsaturated\\b|\\bcongest(?:ed|ion)\\b",
  "\\b(?:high|heavy) (?:demand|traffic|load)\\b|\\bpeak load\\b|\\b(?:too|very|currently|temporarily) busy\\b|\\b(?:server|service|system|upstream|engine) (?:is )?busy\\b|\\brate-limited upstream\\b",
  "\\bload (?:is |was )?(?:too |very )?high\\b|\\btoo much (?:load|traffic)\\b|\\bqueue (?:is )?full\\b|\\bno capacity\\b",
];
const BUSY_ABROAD =
  "饱和|飽和|繁忙|过载|過載|负载[^\n]{0,6}(?:高|上限|饱和)|負載[^\n]{0,6}高|拥挤|拥堵|擁擠|访问量过大|混雑|過負荷|混み合|혼잡|과부하|перегружен|surcharg|sobrecarg|überlast|sovraccaric|aşırı yük";

/** Beside a code of money these mean busy, too. */
const TRY_LATER = "\\b(?:try(?: again)?|retry) (?:again )?later\\b|请?稍[后候後](?:再试|重试|再試|重試)";

/** It is this model that costs money: others may be free. */
const PAID_MODEL =
  /\bmodel\b[^.\n]{0,40}\b(?:requires?|needs?|only|limited|restricted|reserved)\b[^.\n]{0,30}\b(?:paid|paying|premium|pro|plus|subscri\w{3,5}|upgrade)\b|\bmodel\b[^.\n]{0,40}\bnot \w{2,12} (?:on|in|for|to|with) (?:the |a |your )?(?:free|trial)\b|\b(?:upgrade|pay|subscribe) to \w{2,9} (?:this|the|that) model\b|\bpaid model\b|模型[^\n]{0,8}付费|付费模型/i;

/** What is wrong is one model's: not there, full, switched off. */
const MODEL_TROUBLE = [
  "\\bmodel\\b[^.\\n]{0,80}\\b(?:overloaded|unavailable|(?:at|over) capacity|busy|high demand|not available|no available|not loaded|currently loading|is down)\\b",
  "\\bno (?:available|healthy) (?:channel|provider|endpoint|deployment|account|upstream|instance)s?\\b[^\\n]{0,40}\\bmodel\\b", // new-api, Nov 2026
  "\\bcapacity\\b[^.\\n]{0,40}\\b(?:this|the) model\\b|\\bno (?:available|healthy) (?:deployments?|instances?)\\b|\\bno (?:deployments?|channels?|instances?|endpoints?) (?:is |are )?(?:available|healthy)\\b", // LiteLLM
  "模型[^\\n]{0,60}(?:无可用渠道|無可用渠道|无可用|不可用|负载|過載|过载|繁忙|饱和)",
];
const MODEL_CODES =
  /^model_(?:not_found|overloaded|unavailable|not_available|busy|capacity_exhausted|capacity_exceeded|loading|not_ready|disabled)(?:_error)?$/;

/** It is the prompt that is refused. First of all: such answers like to quote it. */
const MODERATION_CODES =
  /moderation|content_?(?:policy|filter|blocked)|inspection|safety|prompt_?(?:blocked|flagged)|sensitive/;
const MODERATION_PHRASES = [
  "\\b(?:moderation|moderated|flagged|content policy|content (?:violates|was blocked|filter)|usage (?:guidelines|policy|policies)|safety[ _](?:check|system|filter)|guardrails?|prohibited content|inappropriate content)",
  "敏感|违规内容|内容违规|内容安全|审核未通过|不适当的内容",
];

/** It is a field of the request, or its path, that is refused: whatever key comes along. */
const REQUEST_PHRASES = [
  "\\bcors\\b|\\breferr?er\\b|\\borigin\\b[^\\n]{0,80}\\b(?:not allowed|blocked|forbidden|denied|not permitted|invalid)|\\b(?:blocked|invalid|disallowed|unknown|forbidden) origin\\b", // Anthropic, Google (Nov 2026)
  "\\buser[- ]?agent\\b|\\bonly (?:currently )?(?:available|allowed|supported|accessible|usable|permitted) (?:for|to|in|via|through|with|from|by) (?:\\w{1,20} ){0,3}(?:agents?|clients?|cli|apps?|applications?|browsers?|ides?|editors?)\\b", // Kimi's coding plan (Nov 2026)
  "\\bheaders?\\b[^.\\n]{0,30}\\b(?:required|missing|must be)\\b|\\b(?:missing|required|requires?|must (?:set|include|provide|send|contain)|lacks?|without)\\b[^.\\n]{0,60}\\bheaders?\\b",
  "\\b(?:admin(?:istrator)?|management|provisioning|organization|session) (?:api[ -]?)?keys?\\b[^.\\n]{0,40}\\b(?:required|only|needed|must)\\b|\\b(?:requires?|must use|needs?|only|use) (?:an? |the )?(?:admin(?:istrator)?|management|provisioning|session) (?:api[ -]?)?keys?\\b",
  "\\bonly (?:for |by |to |available (?:for|to) )?(?:\\w{1,20} ){0,3}(?:admins?|administrators?|owners?)\\b|\\b(?:admin|administrator|owner) (?:role|permissions?|access|privileges?|rights)\\b",
  "\\b(?:error|fail\\w*|unable|can(?:not|'t)|could(?: not|n't))\\b[^\\n]{0,20}\\b(?:download|fetch|retriev|access|load|open|read)\\w{0,4}\\b[^\\n]{0,40}(?:https?://|\\b(?:image|url|link|video|audio)\\b)", // what it refers to
  "\\bbrowser (?:requests?|access|environments?|clients?)\\b",
];
const REQUEST_CODES = /^(?:cors_|origin_not_allowed|api_?key_(?:http_referrer|android_app|ios_app)_blocked)/;

const anyOf = (phrases: readonly string[]) => new RegExp(phrases.join("|"), "i");
/** At the beginning of a sentence, before anything that may be a quotation: for statuses that speak of the request. */
const atBeginning = (phrases: readonly string[]) =>
  new RegExp(String.raw`^[^"'\`“「:{[\n]{0,60}?(?:${phrases.join("|")})`, "im");

/** Patterns are made when the first refusal comes, and kept. */
function once<Made>(make: () => Made): () => Made {
  let made: Made | undefined;
  return () => (made ??= make());
}

// ------------------------------------------------------------ rules for all

const SERVER_FAULTS: readonly number[] = [500, 502, 503, 504, 520, 529];
/** Statuses of the request's own faults: their sentences quote the request more than others. */
const CLIENT_FAULTS: readonly number[] = [400, 404, 405, 406, 409, 410, 411, 413, 415, 418, 422, 424, 451];
/** The others, where a sentence may speak of the key, the account or the service. */
const TELLING: readonly number[] = [401, 402, 403, 407, 412, 423, 425, 428, 429, ...SERVER_FAULTS];

const moneyText = once(() => anyOf(MONEY_PHRASES));
const busyText = once(() => anyOf([...BUSY_PHRASES, BUSY_ABROAD, TRY_LATER]));

/**
 * Whether sentences say busy, and nothing of money. They beat what says money without a sentence: a code that is left
 * over from a gateway's own books, or a status (P40).
 */
export function saysBusy(text: string): boolean {
  return busyText().test(text) && !moneyText().test(text);
}

/** After the provider's own rules, the same for all; where none of these holds either, the status decides. */
export const sharedRules = once((): readonly RefusalRule[] => {
  const money = moneyText();
  const moneyCode = new RegExp(`^(?:${MONEY_CODES.join("|")})$`);
  return [
    // Edge pages are about our address or their server, never about a key. Cloudflare's 1015 counts per IP.
    { status: 429, page: true, then: TOO_FAST_FOR_ALL },
    // The same in words: "Too many requests from this IP, please try again later".
    {
      status: 429,
      text: /\b(?:from|for|by|per|of) (?:(?:this|your|the|client|same|an|each) ){0,4}IP(?: address\w{0,2})?\b|\bIP(?: address)?(?:-based)? (?:rate )?limit/i,
      then: TOO_FAST_FOR_ALL,
    },
    { status: 403, page: true, then: REJECTED },
    { status: 403, header: ["cf-mitigated", /./], then: REJECTED },

    // The prompt, before what it is quoted with; then the request's own fields.
    { status: [400, 401, 402, 403, 422, 451], code: MODERATION_CODES, then: REJECTED },
    { status: [401, 402, 403, 451], text: anyOf(MODERATION_PHRASES), then: REJECTED },
    { status: [401, 403], code: REQUEST_CODES, then: REJECTED },
    { status: [401, 403], text: anyOf(REQUEST_PHRASES), then: REJECTED },

    // A code of money may be left over beside a sentence that says busy (one-api, Nov 2026): the sentence counts.
    { status: SERVER_FAULTS, code: moneyCode, text: busyText(), unless: money, then: CAPACITY },
    { code: moneyCode, text: busyText(), unless: money, then: BUSY_MODEL },
    { status: 402, text: anyOf([...BUSY_PHRASES, BUSY_ABROAD]), unless: money, then: BUSY_MODEL },

    // MiniMax's numbers, in an answer's place or behind a gateway (Nov 2026).
    { field: ["status_code", /^1008$/], then: NO_MONEY },
    { field: ["status_code", /^(?:1002|1039|1041)$/], then: TOO_FAST },
    { field: ["status_code", /^2056$/], then: HOURS_WINDOW },
    { field: ["status_code", /^1004$/], then: DOUBTED },
    { field: ["status_code", /^2049$/], then: DEAD },
    { field: ["status_code", /^(?:1026|1027|2013)$/], then: REJECTED },

    // Windows of days and more come before money: "daily spending limit" ends by itself.
    { status: 429, text: /额度(?:已经|已)?(?:用尽|用完|耗尽)/, namedAtLeastMs: 0, then: DAY },
    {
      status: [403, 429],
      text: /\bdaily (?:spend(?:ing)?|budget|credit|cost)\b|每日.{0,6}(?:额度|限额|配额)/i,
      then: DAY,
    },

    // Money. A 429 of Gemini speaks of "plan and billing details", too: only words that no rate limit uses.
    { status: [402, 429], text: PAID_MODEL, then: NO_MONEY_MODEL },
    { status: 403, text: PAID_MODEL, then: UNSUITED_MODEL },
    { status: 402, then: NO_MONEY },
    { code: moneyCode, then: NO_MONEY },
    { status: TELLING, text: money, then: NO_MONEY },
    { status: CLIENT_FAULTS, text: atBeginning(MONEY_PHRASES), then: NO_MONEY },

    // A subscription's window, also as a fault of the server: "usage limit exceeded, 5-hour usage limit reached".
    { status: SERVER_FAULTS, text: /\busage limit (?:exceeded|reached)\b/i, then: HOURS_WINDOW },

    // One model's trouble is no other's (P40).
    { status: SERVER_FAULTS, code: MODEL_CODES, then: CAPACITY_MODEL },
    { status: SERVER_FAULTS, text: anyOf(MODEL_TROUBLE), then: CAPACITY_MODEL },

    // Refused for where we ask from, not for the key.
    {
      status: [401, 403],
      code: /^(?:unsupported_country_region_territory|region_restricted|ip_not_authorized)$/,
      then: REJECTED,
    },
    {
      status: [401, 403],
      text: [
        /\bnot (?:available|supported|allowed) in your (?:region|country|location|territory)\b/i,
        /\b(?:country|region|territory|location)\b[^.]{0,40}\bnot (?:available|supported)\b/i,
        /\bIP(?: address)?\b.{0,60}\bnot (?:allowed|authorized|in )|\bIP allow ?list\b/i,
      ],
      then: REJECTED,
    },
    // It came without a key: a fault of ours, no key's.
    {
      status: 401,
      text: /\b(?:no|missing|didn't provide|did not provide)\s+(?:an?\s+|any\s+|bearer or basic\s+)?(?:api[ _-]?key|auth\w{0,13}|credentials?|bearer)\b(?! or\b)/i,
      then: REJECTED,
    },

    // The key itself is said to be bad.
    {
      status: [401, 403],
      code: /^(?:(?:invalid|incorrect|wrong|expired|revoked|disabled)_?api_?key|api_?key_?(?:invalid|expired|revoked|disabled|deleted)|account_deactivated|organization_deactivated|access_terminated)$/,
      then: DEAD,
    },
    {
      status: [401, 403],
      text: [
        /\b(?:invalid|incorrect|wrong|expired|revoked|disabled|deactivated)\s+(?:[\w-]{1,40}\s+)?(?:x-)?(?:api[ _-]?key|api[ _-]?token|access token)\b/i,
        /\bapi[ _-]?(?:key|token)\b(?::?(?:(?!\. )[^:;,]){0,50}\b(?:is|was|has been|has)\b)? (?:currently |reported as )?(?:not valid|no longer valid|invalid|expired|revoked|disabled|deactivated|leaked|blocked)\b/i,
        /无效的令牌|令牌已过期|令牌无效|密钥无效|无效的密钥|api ?key ?(?:无效|已失效|已过期|不存在)/i, // one-api, new-api
      ],
      then: DEAD,
    },

    // A quota that is no rate: of characters, of requests a month.
    { status: [401, 403], code: /quota_?(?:exceeded|exhausted|reached)|exceeded_?quota/, then: LONG_WINDOW },
    {
      status: [401, 403, 412],
      text: /\bquota (?:has been |is |was )?(?:exceeded|exhausted|reached|used up)\b|\bexceed\w{0,3} (?:your|the) (?:\w{1,20} ){0,2}quota\b|\busage limits?\b/i,
      then: LONG_WINDOW,
    },

    {
      status: [400, 403, 409, 412, 423],
      text: atBeginning([
        "\\b(?:limit|quota|usage|allowance|requests|tokens|credits)\\b[^.\\n]{0,40}\\bbilling (?:cycle|period)\\b",
        "\\bbilling (?:cycle|period)\\b[^.\\n]{0,40}\\b(?:limit|quota|usage|allowance)\\b",
      ]),
      then: LONG_WINDOW,
    },
    NO_THING,
    // A feature for which an account has to show who it is: the model goes on without it.
    { status: 403, text: /\bmust be verified to (?!use|access)/i, then: UNSUITED_KEY },
    // A 403 for the day, and a 403 for something that another account may have.
    {
      status: 403,
      text: /\b(?:daily|weekly|monthly)\b[^.\n]{0,40}\b(?:limit|quota|usage|allowance)\b/i,
      then: LONG_WINDOW,
    },
    {
      status: 403,
      text: /\b(?:model|permissions?|access to|subscription|entitled|entitlement)\b|无权|無權|权限|權限|不支持该模型/i,
      then: UNSUITED_MODEL,
    },
    { status: [401, 403], then: DOUBTED },

    // One request larger than the whole window never passes, whatever the wait. It is the one 429 of an upstream that
    // goes to the client as it is: it speaks of the client's request, and a status of ours would hide what to change.
    { status: 429, text: /^Request too large\b/m, then: REJECTED },
    { status: 429, text: /\bconcurren(?:t|cy)\b|\bin flight\b|并发/i, then: TOO_MANY_AT_ONCE },
    { status: 429, code: MODEL_CODES, then: CAPACITY_MODEL },
    { status: 429, code: /overloaded|capacity|slow_down|server_busy/, then: CAPACITY },
    { status: 429, text: anyOf(MODEL_TROUBLE), then: CAPACITY_MODEL },
    { status: 429, text: anyOf(BUSY_PHRASES), then: CAPACITY },
    { status: 429, text: new RegExp(BUSY_ABROAD), then: BUSY_MODEL },
    // OpenAI's words: limits per model; a daily one that says "try again in" is a bucket that leaks.
    { status: 429, code: /^(?:tokens|requests)$/, namedAtLeastMs: 0, then: TOO_FAST_MODEL },
    { status: 429, header: ["x-ratelimit-remaining-requests-day", /^0$/], then: DAY_MODEL },
    { status: 429, code: DAY_CODES, then: DAY },
    { status: 429, text: anyOf(DAY_PHRASES), then: DAY },
    { status: 429, code: LONG_CODES, then: LONG_WINDOW },
    { status: 429, text: anyOf(LONG_PHRASES), then: LONG_WINDOW },
    { status: 429, text: anyOf(HOURS_PHRASES), then: HOURS_WINDOW },
    { status: 429, code: /^(?:tokens|requests)$/, then: TOO_FAST_MODEL },
    { status: 429, code: /^model_(?:rate_limit|cooldown)/, then: TOO_FAST_MODEL },
    { status: 429, then: TOO_FAST },
  ];
});
