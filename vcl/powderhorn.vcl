# PURGE for a Varnish fleet: purges the object on every node, whatever vcl_hash makes of a request.
#
#	vcl 4.1;
#	import powderhorn;
#	include "powderhorn.vcl";
#
#	sub vcl_init {
#		powderhorn.start("/etc/varnish/powderhorn.toml");
#	}
#
# Who may purge: acl powderhorn_purgers, which is in a file of its own, powderhorn_purgers.vcl.
# Varnish looks for it along its parameter vcl_path, in /etc/varnish first, so a file of that name
# there takes the place of the one shipped with this file, which knows localhost only.
#
# In front of another cache that includes this file too, or behind one, x-url and x-host are each
# cache's own. A cache that fetches from another one (a shield) is to be purged after that one, or
# again a second later: what it fetches in between is the old content, fetched after the purge.
#
# Objects get two more headers: raise http_max_hdr where responses have nearly as many as it allows.
#
# A purge asks for the object that the same GET would get. So include this file after code in your
# vcl_recv that changes req.url or a header that your vcl_hash uses, and before code that returns,
# in vcl_recv and in vcl_pass.
# Whatever your vcl_synth adds to all answers goes before the include, too.
#
# Answers to a PURGE, as text:
#
#	200	applied on this node and sent to all others; X-Powderhorn-Id and the body hold the
#		purge's id, for powderhorn.knows()
#	405	the client is not one of powderhorn_purgers
#	503	"Purged on this node only": applied here, but not sent (see VCL_Error in varnishlog);
#		send it again. Other reasons: VCL failed before it was applied.

include "powderhorn_purgers.vcl";

sub vcl_recv {
	# One name for one host, for lookups as well as for purges; powderhorn.purge() does the same.
	if (req.http.Host ~ "[[:upper:]]|:(80|443)$") {
		set req.http.Host = regsub(req.http.Host.lower(), ":(80|443)$", "");
	}

	# Ours alone: it carries the id from vcl_pass to vcl_synth.
	unset req.http.X-Powderhorn-Id;

	if (req.method == "PURGE") {
		if (client.ip !~ powderhorn_purgers) {
			return (synth(405, "Not allowed to purge"));
		}
		# To vcl_pass, by when vcl_hash has said which object is meant.
		return (pass);
	}
}

sub vcl_pass {
	# Asked once more: other code may pass a PURGE.
	if (req.method == "PURGE" && client.ip ~ powderhorn_purgers) {
		set req.http.X-Powderhorn-Id = powderhorn.purge_hash();
		if (req.http.X-Powderhorn-Id == "") {
			unset req.http.X-Powderhorn-Id;
			return (synth(503, "Purged on this node only"));
		}
		return (synth(200, "Purged"));
	}
}

# A fetch that began before a purge may bring the old content. What goes into the cache is then taken
# away again by powderhorn itself, with or without the following; this fetches once more, so that
# the clients who wait for it get the new content, too. If that is overtaken as well, they get what
# there is, and for a second nobody waits for anybody else's fetch.
sub vcl_backend_fetch {
	powderhorn.mark();
}

sub vcl_backend_response {
	# What bans and flushes look at. Clients do not see them.
	set beresp.http.x-url = powderhorn.fetched_url();
	set beresp.http.x-host = powderhorn.fetched_host();

	# What builtin.vcl would not keep needs no second try, and may not bear one.
	if (!bereq.uncacheable && beresp.ttl + beresp.grace + beresp.keep > 0s &&
	    !beresp.http.Set-Cookie && beresp.http.Vary != "*" &&
	    beresp.http.Surrogate-Control !~ "(?i)no-store" &&
	    beresp.http.Cache-Control !~ "(?i:no-cache|no-store|private)" &&
	    powderhorn.overtaken()) {
		if (bereq.retries == 0 && powderhorn.may_retry()) {
			# What a 304 would revive has been purged.
			unset bereq.http.If-None-Match;
			unset bereq.http.If-Modified-Since;
			return (retry);
		}
		set beresp.uncacheable = true;
		set beresp.ttl = 1s;
	}
}

sub vcl_backend_error {
	set beresp.http.x-url = powderhorn.fetched_url();
	set beresp.http.x-host = powderhorn.fetched_host();
}

sub vcl_deliver {
	unset resp.http.x-url;
	unset resp.http.x-host;
}

sub vcl_synth {
	if (req.method == "PURGE") {
		set resp.http.Content-Type = "text/plain; charset=utf-8";
		if (req.http.X-Powderhorn-Id) {
			set resp.http.X-Powderhorn-Id = req.http.X-Powderhorn-Id;
			set resp.body = req.http.X-Powderhorn-Id + {"
"};
		} else {
			set resp.body = resp.reason + {"
"};
		}
		return (deliver);
	}
}
