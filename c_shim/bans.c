/*
 * Bans, and the regular expressions in them.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/cache_varnishd.h"

#include "vre.h"
#include "vsb.h"

#include "varnishd_private.h"
#include "powderhorn_shim.h"

static void
say(char *error, size_t len, const char *text)
{

	if (len > 0)
		(void)snprintf(error, len, "%s", text);
}

/* varnishd asserts that the name and a colon are no longer than a signed char can say. */
static int
name_too_long(const char *field)
{
	const char *name;

	name = strstr(field, ".http.");
	return (name != NULL && strlen(name + strlen(".http.")) > PH_BAN_HEADER_BYTES_MAX);
}

/*
 * BAN_AddTest and BAN_Commit keep the text of their error inside the ban, so it is copied before
 * BAN_Abandon. BAN_Commit frees the ban itself, but only on success.
 */
enum ph_ban_result
ph_ban(const struct ph_ban_test *tests, size_t n, char *error, size_t error_len)
{
	struct ban_proto *bp;
	const char *text;
	size_t i;

	AN(tests);
	if (__atomic_load_n(&ban_shutdown, __ATOMIC_RELAXED) != 0)
		return (PH_BAN_CLOSING);
	/* A ban without a test would be one of everything. */
	if (n == 0) {
		say(error, error_len, "no test");
		return (PH_BAN_INVALID);
	}
	for (i = 0; i < n; i++) {
		if (name_too_long(tests[i].field)) {
			say(error, error_len, "the header's name is too long");
			return (PH_BAN_INVALID);
		}
	}
	bp = BAN_Build();
	if (bp == NULL) {
		say(error, error_len, "no memory");
		return (PH_BAN_INVALID);
	}
	for (i = 0; i < n; i++) {
		text = BAN_AddTest(bp, tests[i].field, tests[i].operator_, tests[i].value);
		if (text != NULL) {
			say(error, error_len, text);
			BAN_Abandon(bp);
			return (PH_BAN_INVALID);
		}
	}
	text = BAN_Commit(bp);
	if (text == NULL)
		return (PH_BAN_OK);
	say(error, error_len, text);
	BAN_Abandon(bp);
	/* BAN_Commit knows one other error, a lack of memory. */
	if (__atomic_load_n(&ban_shutdown, __ATOMIC_RELAXED) != 0)
		return (PH_BAN_CLOSING);
	return (PH_BAN_INVALID);
}

/*
 * The list is walked because the layout of varnishd's counters changes with each version.
 * BAN_Commit itself walks it, to find duplicates.
 */
uint64_t
ph_bans_live(uint64_t at_most)
{
	const struct ban *b;
	uint64_t n;

	n = 0;
	Lck_Lock(&ban_mtx);
	VTAILQ_FOREACH(b, &ban_head, list) {
		CHECK_OBJ_NOTNULL(b, BAN_MAGIC);
		if (n == at_most)
			break;
		n += (b->flags & BANS_FLAG_COMPLETED) == 0;
	}
	Lck_Unlock(&ban_mtx);
	return (n);
}

/*
 * A match with limits writes them into the regex, so that two threads must not do that at a time.
 * They stay there, though: one match sets them here, and all later ones give none. Without the JIT,
 * whose matches do not count against the depth, and as varnishd compiles the regexes of its bans.
 */
static vre_t *
compile(const char *pattern, unsigned match_limit, char *error, size_t error_len)
{
	struct vre_limits limits;
	struct vsb vsb[1];
	char text[VRE_ERROR_LEN];
	vre_t *re;
	int code, offset;

	AN(pattern);
	re = VRE_compile(pattern, 0, &code, &offset, 0);
	if (re == NULL) {
		AN(VSB_init(vsb, text, sizeof text));
		(void)VRE_error(vsb, code);
		AZ(VSB_finish(vsb));
		VSB_fini(vsb);
		if (error_len > 0)
			(void)snprintf(error, error_len, "%s at offset %d", text, offset);
		return (NULL);
	}
	limits.match = match_limit;
	limits.depth = match_limit;
	(void)VRE_match(re, "", 0, 0, &limits);
	return (re);
}

static int
match(const vre_t *re, const char *subject, size_t len)
{
	int r;

	/* VRE_match takes a length of 0 for "up to the zero byte". */
	r = VRE_match(re, len == 0 ? "" : subject, len, 0, NULL);
	if (r >= 0)
		return (1);
	return (r == VRE_ERROR_NOMATCH ? 0 : -1);
}

struct ph_regex *
ph_regex_compile(const char *pattern, char *error, size_t error_len)
{

	return ((struct ph_regex *)compile(pattern, PH_REGEX_MATCH_LIMIT, error, error_len));
}

int
ph_regex_match(const struct ph_regex *regex, const char *subject, size_t len)
{

	AN(regex);
	return (match((const vre_t *)regex, subject, len));
}

void
ph_regex_free(struct ph_regex *regex)
{
	vre_t *re = (vre_t *)regex;

	AN(re);
	VRE_free(&re);
}

/*
 * The subjects of a screening. PCRE2 gives up a match after 10,000,000 steps, and varnishd (up to
 * 8.0) panics when a ban's match is given up. A header may be 8 kB long, a subject here has an
 * eighth of that: what takes n^2 steps takes 64 times as many there, 3,200,000 at most.
 */
#define SCREEN_RUN_BYTES 1000
#define SCREEN_MATCH_LIMIT 50000
#define SCREEN_LITERALS_MAX 24
#define SCREEN_PATTERN_BYTES_MAX 2048
/* Each live ban has it in memory. A thousand keys in turn take 24 kB. */
#define SCREEN_COMPILED_BYTES_MAX 65536
/*
 * Far more than any regex has been seen to take that passes by its steps: all nodes are to come to
 * the same verdict on a ban, whatever their speed.
 */
#define SCREEN_CPU_NS_MAX 500000000L

struct screen {
	const vre_t	*re;
	const char	*head;
	size_t		head_len;
	const char	*tail;
	size_t		tail_len;
	struct timespec	start;
	char		*subject;
};

static int
too_long(const struct screen *s)
{
	struct timespec now;

	/* Of this thread alone, so that a busy machine refuses no more than an idle one. */
	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return ((now.tv_sec - s->start.tv_sec) * 1000000000L + now.tv_nsec - s->start.tv_nsec >
	    SCREEN_CPU_NS_MAX);
}

/*
 * The head, a run of two bytes in turn, a byte that few patterns allow, and in a line of its own,
 * which no dot crosses, the tail.
 */
static int
explodes(const struct screen *s, int with_head, char one, char two)
{
	char *p;
	size_t i;

	p = s->subject;
	if (with_head) {
		memcpy(p, s->head, s->head_len);
		p += s->head_len;
	}
	for (i = 0; i < SCREEN_RUN_BYTES; i += 2) {
		*p++ = one;
		*p++ = two;
	}
	*p++ = '\x01';
	*p++ = '\n';
	memcpy(p, s->tail, s->tail_len);
	p += s->tail_len;
	*p = '\0';
	return (match(s->re, s->subject, (size_t)(p - s->subject)) < 0 || too_long(s));
}

/*
 * Any error of a match panics varnishd, not only the one for too many steps. Options at the
 * pattern's beginning bring more of them: (*UTF) for a header that is not UTF-8, (*LIMIT_MATCH=...)
 * for nearly any. Recursion has an error of its own, for a loop. Classes and escapes are not looked
 * at closely: what looks like one of these in there is refused as well.
 */
static int
has_trap(const char *pattern)
{
	static const char * const recursions[] = {
		"(?R", "(?&", "(?P>", "\\g<", "\\g'", NULL
	};
	const char * const *recursion;
	const char *p;

	if (strncmp(pattern, "(*", 2) == 0)
		return (1);
	for (recursion = recursions; *recursion != NULL; recursion++)
		if (strstr(pattern, *recursion) != NULL)
			return (1);
	/* (?1), (?+1), (?-1); but (?-i) is an option. */
	for (p = pattern; (p = strstr(p, "(?")) != NULL; p += 2) {
		if (isdigit((unsigned char)p[2]) ||
		    ((p[2] == '+' || p[2] == '-') && isdigit((unsigned char)p[3])))
			return (1);
	}
	return (0);
}

/*
 * PCRE2 does not even try a subject that lacks a byte which every match must have, so every
 * subject ends with all the literals of the pattern; and many a pattern begins with some, after
 * which the trouble starts, so half of the subjects begin with them.
 */
int
ph_regex_screen(const char *pattern, char *error, size_t error_len)
{
	static const char common[] = "a0/-.= A_%\"\xe9";
	struct screen s;
	char seen[256], bytes[sizeof common + SCREEN_LITERALS_MAX + 1];
	char head[SCREEN_PATTERN_BYTES_MAX], *tail;
	size_t len, i, j, n;
	vre_t *re, *packed;
	size_t size;
	int bad, depth;
	char c;

	AN(pattern);
	len = strlen(pattern);
	if (len >= SCREEN_PATTERN_BYTES_MAX) {
		say(error, error_len, "the regex is too long");
		return (-1);
	}
	if (has_trap(pattern)) {
		say(error, error_len, "options as in (*UTF) and recursion as in (?R) are not "
		    "for bans: varnishd would panic at a header that they do not like");
		return (-1);
	}
	re = compile(pattern, SCREEN_MATCH_LIMIT, error, error_len);
	if (re == NULL)
		return (-1);
	packed = VRE_export(re, &size);
	AN(packed);
	VRE_free(&packed);
	if (size > SCREEN_COMPILED_BYTES_MAX) {
		VRE_free(&re);
		say(error, error_len, "the regex is too large when it is compiled");
		return (-1);
	}
	memset(&s, 0, sizeof s);
	s.re = re;
	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &s.start);

	/* The literals that the pattern begins with, as far as a glance can tell. */
	for (i = pattern[0] == '^'; i < len; i++) {
		c = pattern[i];
		if (c == '\\' && i + 1 < len && ispunct((unsigned char)pattern[i + 1]))
			c = pattern[++i];
		else if (strchr("\\^$.|?*+()[]{}", c) != NULL)
			break;
		if (i + 1 < len && strchr("?*{", pattern[i + 1]) != NULL)
			break;
		head[s.head_len++] = c;
	}
	s.head = head;

	memset(seen, 0, sizeof seen);
	n = 0;
	for (i = 0; common[i] != '\0'; i++) {
		bytes[n++] = common[i];
		seen[(unsigned char)common[i]] = 1;
	}
	tail = malloc(len + 1);
	AN(tail);
	depth = 0;
	for (i = 0; i < len; i++) {
		c = pattern[i];
		if (c == '\\' && i + 1 < len && ispunct((unsigned char)pattern[i + 1]))
			c = pattern[++i];
		else if (strchr("\\^$.|?*+()[]{}", c) != NULL) {
			depth += c == '{';
			depth -= c == '}' && depth > 0;
			continue;
		}
		/* The number of a repetition is no literal. */
		if (depth > 0)
			continue;
		tail[s.tail_len++] = c;
		if (!seen[(unsigned char)c] && n < sizeof bytes - 1) {
			seen[(unsigned char)c] = 1;
			bytes[n++] = c;
		}
	}
	s.tail = tail;
	s.subject = malloc(s.head_len + SCREEN_RUN_BYTES + 2 + s.tail_len + 1);
	AN(s.subject);

	bad = 0;
	for (i = 0; i < n && !bad; i++) {
		bad = explodes(&s, 0, bytes[i], bytes[i]) ||
		    (s.head_len > 0 && explodes(&s, 1, bytes[i], bytes[i]));
	}
	/* Neighbours among the pattern's own bytes, for groups like (ab)+. */
	for (j = 0; j + 1 < s.tail_len && j < SCREEN_LITERALS_MAX && !bad; j++)
		bad = explodes(&s, s.head_len > 0, s.tail[j], s.tail[j + 1]);

	free(s.subject);
	free(tail);
	VRE_free(&re);
	if (bad)
		say(error, error_len, "the regex may take too many steps on a long header: let "
		    "its repetitions exclude each other, as in [^/]* for .*");
	return (bad ? -1 : 0);
}
