# Plone (plone.cachepurging): PURGE of a path for Zope's virtual host monster, or of a bare one. To be included
# at the beginning of your VCL, before code that changes req.url, with powderhorn.vcl or powderhorn_clients.vcl in
# its usual place after that code.
#
# The Host of such a PURGE is the cache's own. /VirtualHostBase/http/www.example.com:80/Plone/VirtualHostRoot/news
# becomes /news on www.example.com, the request that a browser sends for it. So it is the same object whether
# it is Varnish or something behind it that rewrites URLs for Zope.
#
# A PURGE of another path is one of a site without virtual hosting, and purges this URL on all hosts, as a ban.
#
# Read from: plone.cachepurging 4.0.

sub vcl_recv {
	if (req.method == "PURGE" && req.restarts == 0) {
		if (req.url ~ "^/VirtualHostBase/[^/]+/[^/]+/(.*/)?VirtualHostRoot(/|$)") {
			set req.http.Host = regsub(req.url, "^/VirtualHostBase/[^/]+/([^/]+)/.*$", "\1");
			set req.url = regsub(req.url, "^.*?/VirtualHostRoot/?", "/");
			# What follows _vh_ is a part of the path that browsers see.
			set req.url = regsuball(req.url, "/_vh_", "/");
		} else {
			call powderhorn_admit;
			set req.http.X-Powderhorn-Id = powderhorn.ban_url(
			    "^" + powderhorn.escape(req.url) + "$", "*");
			call powderhorn_answer;
		}
	}
}

sub vcl_synth {
	# A VCL that failed has lost what it noted in the request. 400, and the reason.
	if (req.method == "PURGE" && powderhorn.refused()) {
		set req.http.X-Powderhorn-Answer = "text";
	}
}
