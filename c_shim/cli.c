/*
 * Commands of our own for varnishadm, where varnishd is started with `-E` and this library.
 *
 * The manager has a list of commands, of which the cache child takes over its own copy as it starts
 * (CLI_Init); from then on nobody may add to it, as CLI_AddFuncs asserts. `-E` opens a library in the
 * child just before that. So a constructor can add commands to the list that is about to be taken over.
 */
#include <unistd.h>

#include "cache/cache_varnishd.h"

#include "vcli.h"

#include "varnishd_private.h"
#include "powderhorn_shim.h"

static const struct cli_cmd_desc descriptions[PH_COMMANDS] = {
	[PH_COMMAND_STATUS] = {
		"powderhorn.status",
		"powderhorn.status [-j]",
		"  The state of the fleet as this node sees it: what to look at first, the peers, worst "
		"first, and what this node has counted.",
		"", 0, 0,
	},
	[PH_COMMAND_PEERS] = {
		"powderhorn.peers",
		"powderhorn.peers [-j]",
		"  The other nodes, those that need attention first.",
		"", 0, 0,
	},
	[PH_COMMAND_DIGEST] = {
		"powderhorn.digest",
		"powderhorn.digest [-j]",
		"  What this node holds: for each stream the ranges of its messages.",
		"", 0, 0,
	},
	[PH_COMMAND_STREAMS] = {
		"powderhorn.streams",
		"powderhorn.streams [-j]",
		"  The streams that are known: whose they are, and how many messages are held, applied "
		"and lacking, those that lack most first.",
		"", 0, 0,
	},
	[PH_COMMAND_TRACE] = {
		"powderhorn.trace",
		"powderhorn.trace [-j] <id>",
		"  Asks the fleet for a purge and shows on which nodes it is applied, how fast, and which "
		"are missing. Waits for the answers, half a second at most.",
		"", 1, 1,
	},
	[PH_COMMAND_PURGE] = {
		"powderhorn.purge",
		"powderhorn.purge [-j] <url> <host>",
		"  Purges what the standard vcl_hash makes of this URL and host, on every node, and shows "
		"the purge's id.",
		"", 2, 2,
	},
	[PH_COMMAND_FLUSH] = {
		"powderhorn.flush",
		"powderhorn.flush [-j] <host>",
		"  Takes all objects of a host away, on every node, and shows the purge's id.",
		"", 1, 1,
	},
};

/* The brackets of JSON, and what is told in the middle of them but the command's words. */
#define ENVELOPE_BYTES 128
/* A word has quotes and a comma, and a byte of it may become \u00xx. */
#define WORD_BYTES 4
#define ESCAPED_BYTES 6

void
ph_reply(void *priv, const char *text, size_t len)
{

	if (len > 0)
		(void)VSB_bcat(priv, text, (ssize_t)len);
}

static void
run(struct cli *cli, const char * const *av, unsigned command, int json)
{
	const char * const *args;
	struct vsb *reply;
	size_t i, n, limit, taken;
	unsigned result;

	CHECK_OBJ_NOTNULL(cli, CLI_MAGIC);
	args = av + (json ? 3 : 2);
	for (n = 0; args[n] != NULL; n++)
		continue;
	taken = ENVELOPE_BYTES;
	for (i = 1; av[i] != NULL; i++)
		taken += WORD_BYTES + ESCAPED_BYTES * strlen(av[i]);
	limit = cache_param->cli_limit;
	reply = VSB_new_auto();
	AN(reply);
	result = powderhorn_command_1(command, json, args, n, limit > taken ? limit - taken : 0,
	    ph_reply, reply);
	AZ(VSB_finish(reply));
	if (json && result == CLIS_OK)
		VCLI_JSON_begin(cli, 2, av);
	if (json && result == CLIS_OK)
		(void)VSB_cat(cli->sb, ",\n");
	(void)VSB_bcat(cli->sb, VSB_data(reply), VSB_len(reply));
	if (json && result == CLIS_OK)
		VCLI_JSON_end(cli);
	VSB_destroy(&reply);
	VCLI_SetResult(cli, result);
}

static void v_matchproto_(cli_func_t)
run_text(struct cli *cli, const char * const *av, void *priv)
{

	run(cli, av, (unsigned)(uintptr_t)priv, 0);
}

static void v_matchproto_(cli_func_t)
run_json(struct cli *cli, const char * const *av, void *priv)
{

	run(cli, av, (unsigned)(uintptr_t)priv, 1);
}

/* One more: varnishd knows the end by it. */
static struct cli_proto commands[PH_COMMANDS + 1];

/*
 * Only in a cache child that `-E` has opened the library in. In the manager, and in the processes
 * that compile and try VCL for it, heritage.cls is NULL. In a child that runs, and opens the library
 * for a VCL that imports it, cache_param is set. Any other process has no `heritage` and cannot open
 * the library. Run as root, before varnishd gives up its rights: nothing else may be done here.
 */
static void __attribute__((constructor))
add_commands(void)
{
	uintptr_t i;

	if (heritage.cls == NULL || heritage.cls != mgt_cls || cache_param != NULL)
		return;
	if (heritage.mgt_pid == (long)getpid() || heritage.cls->magic != VCLS_MAGIC)
		return;
	if (commands[0].desc != NULL)
		return;
	for (i = 0; i < PH_COMMANDS; i++) {
		commands[i].desc = &descriptions[i];
		commands[i].flags = "";
		commands[i].func = run_text;
		commands[i].jsonfunc = run_json;
		commands[i].priv = (void *)i;
	}
	VCLS_AddFunc(heritage.cls, 0, commands);
}
